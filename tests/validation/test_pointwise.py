"""Identities of maps at every point, and keys that are used once. No check here has chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import LawMismatch
from bayeskit.inference import (
    HMC,
    MALA,
    Independent,
    NoUTurn,
    RandomWalk,
    random,
    resample,
    scan,
    spawn,
)
from bayeskit.inference.maps import Bijector, Involution
from bayeskit.validation import Atoms, battery, validate
from bayeskit.validation.pointwise import key_reuse_check, largest_difference
from tests.inference import finite_models as fm

BANANA = battery()["banana"].target


def normal_pair(key):
    return random.normal(key, (2,))


def failures(report):
    return [check.name for check in report.tests if not check.passed]


# ---------------------------------------------------------------- bijectors


def to_simplex(u):
    """Additive log ratios to the first two of three probabilities."""
    return jax.nn.softmax(jnp.append(u, 0.0))[:2]


def from_simplex(x):
    return jnp.log(x) - jnp.log1p(-jnp.sum(x))


def simplex_log_det(u):
    return jnp.sum(jax.nn.log_softmax(jnp.append(u, 0.0)))


def in_simplex(x):
    return jnp.all(x > 0) & (jnp.sum(x) < 1)


def logit_log_det(u):
    return jnp.sum(jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u))


def in_unit_interval(x):
    return jnp.all((x > 0) & (x < 1))


def logit(x):
    return jnp.log(x) - jnp.log1p(-x)


SIMPLEX = Bijector(to_simplex, from_simplex, simplex_log_det, in_simplex)
LOGIT = Bijector(jax.nn.sigmoid, logit, logit_log_det, in_unit_interval)
BY_NAME = Bijector(
    forward=lambda u: {"rate": jnp.exp(u["log_rate"]), "shift": u["shift"] + u["log_rate"]},
    inverse=lambda x: {
        "log_rate": jnp.log(x["rate"]),
        "shift": x["shift"] - jnp.log(x["rate"]),
    },
    log_det=lambda u: u["log_rate"],
)


@pytest.mark.parametrize(
    ("bijector", "start"),
    [
        (SIMPLEX, normal_pair),
        (LOGIT, normal_pair),
        # Far out, where a probability is 1 to most of its digits.
        (LOGIT, lambda key: 12.0 * random.normal(key, (2,))),
        (BY_NAME, lambda key: {"log_rate": random.normal(key), "shift": jnp.ones(())}),
        # A constant of single precision is rounded, which is no mistake of the map.
        (
            Bijector(
                lambda u: u * np.float32(1.3) + np.float32(0.1),
                lambda x: (x - np.float32(0.1)) / np.float32(1.3),
                lambda u: 2 * jnp.log(jnp.float32(1.3)),
            ),
            normal_pair,
        ),
        # Scales that differ by twelve orders.
        (
            Bijector(
                lambda u: u * np.array([1e-6, 1e6]),
                lambda x: x * np.array([1e6, 1e-6]),
                lambda u: jnp.zeros(()),
            ),
            normal_pair,
        ),
    ],
    ids=["simplex", "logit", "logit far out", "by name", "single precision", "scales"],
)
def test_right_bijectors_pass(bijector, start):
    report = validate(bijector, start=start)
    report.raise_if_failed()
    assert report.alpha == 0.0
    assert report.law.startswith("L9 bijection")


LOG_DET = "the log determinant is that of the Jacobian"
ROUND_TRIP = "inverse(forward(u)) = u"
PLANTED_BIJECTORS = {
    "no Jacobian": (SIMPLEX, {"log_det": lambda u: 0.0 * jnp.sum(u)}, LOG_DET),
    "Jacobian with the wrong sign": (
        SIMPLEX,
        {"log_det": lambda u: -simplex_log_det(u)},
        LOG_DET,
    ),
    "Jacobian twice": (SIMPLEX, {"log_det": lambda u: 2.0 * simplex_log_det(u)}, LOG_DET),
    "all three probabilities counted": (
        SIMPLEX,
        {"forward": lambda u: jax.nn.softmax(jnp.append(u, 0.0))},
        "the image has as many coordinates",
    ),
    "log determinants not summed": (
        LOGIT,
        {"log_det": lambda u: jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)},
        "the declared log determinant is one number",
    ),
    "inverse of another base": (LOGIT, {"inverse": lambda x: logit(x) / np.log(2)}, ROUND_TRIP),
    "inverse loses a coordinate": (
        LOGIT,
        {"inverse": lambda x: logit(x)[:1]},
        "shapes and dtypes of u come back",
    ),
    "inverse in single precision": (
        LOGIT,
        {"inverse": lambda x: logit(x).astype(jnp.float32)},
        "shapes and dtypes of u come back",
    ),
    "support too small": (
        LOGIT,
        {"support": lambda x: in_unit_interval(x) & (x[0] < 0.5)},
        "images lie in the declared support",
    ),
    "support too large": (LOGIT, {"support": lambda x: x[0] > 0}, "forward(inverse(x)) = x"),
    "not injective": (
        LOGIT,
        {"forward": lambda u: 0.0 * u + 0.5, "support": None},
        "the Jacobian is not singular",
    ),
    "overflow": (
        LOGIT,
        {"forward": lambda u: jnp.where(u > 2.0, jnp.inf, jax.nn.sigmoid(u))},
        "images and determinants are finite",
    ),
}


@pytest.mark.parametrize("name", PLANTED_BIJECTORS)
def test_planted_mistakes_of_a_bijector_are_found(name):
    right, change, check = PLANTED_BIJECTORS[name]
    planted = Bijector(**{**vars(right), **change})
    report = validate(planted, start=normal_pair)
    assert report.verdict == "fail"
    assert check in failures(report)


def test_words_say_where_and_how_much():
    planted = Bijector(jnp.exp, jnp.log, lambda u: jnp.zeros(()), name="exp")
    report = validate(planted, start=lambda key: jnp.full((1,), 0.25))
    assert report.block == "exp"
    assert report.worst == (
        "at u = (0.25), the declared log determinant is 0, that of the Jacobian is 0.25"
    )


# ---------------------------------------------------------------- involutions


def leapfrog(z, num_steps=3, step_size=0.3, *, flip=True, half_step=True, friction=1.0):
    """Hamiltonian dynamics in the arithmetic of the HMC kernel, then a flip of the momentum."""
    x, momentum = z
    gradient = jax.grad(BANANA.density())

    def step(_, now):
        x, p = now
        half = p + 0.5 * step_size * gradient(x)
        x = x + step_size * half
        last = 0.5 if half_step else 1.0
        return x, friction * (half + last * step_size * gradient(x))

    x, momentum = jax.lax.fori_loop(0, num_steps, step, (x, momentum))
    return x, -momentum if flip else momentum


def minus_energy(z):
    x, momentum = z
    return BANANA.density()(x) - 0.5 * jnp.sum(momentum**2)


def phase_space(key):
    first, second = random.split(key)
    return BANANA.sample_exact(first), random.normal(second, (2,))


def test_leapfrog_with_a_flip_is_an_involution_that_keeps_volume():
    involution = Involution(leapfrog, log_density=minus_energy, name="leapfrog")
    report = validate(involution, start=phase_space)
    report.raise_if_failed()
    assert report.law.startswith("L8 involution")
    assert {check.name for check in report.tests} >= {
        "φ(φ(z)) = z",
        "r(φ(z)) r(z) = 1",
        LOG_DET,
    }


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"flip": False}, "φ(φ(z)) = z"),
        ({"half_step": False}, "φ(φ(z)) = z"),
        ({"friction": 0.99}, LOG_DET),
    ],
    ids=["no flip", "no half step", "friction"],
)
def test_planted_mistakes_of_a_leapfrog_are_found(change, check):
    report = validate(Involution(lambda z: leapfrog(z, **change)), start=phase_space)
    assert report.verdict == "fail"
    assert check in failures(report)


def scale(z):
    return z[0] * z[1], 1 / z[1]


def positive_pair(key):
    return tuple(jnp.exp(random.normal(part)) for part in random.split(key))


def exponential_pair(z):
    inside = (z[0] > 0) & (z[1] > 0)
    return jnp.where(inside, -z[0] - z[1], -jnp.inf)


def test_scaling_needs_its_jacobian():
    right = Involution(scale, lambda z: -jnp.log(z[1]), exponential_pair)
    validate(right, start=positive_pair).raise_if_failed()
    planted = validate(Involution(scale, None, exponential_pair), start=positive_pair)
    assert failures(planted) == [LOG_DET]


def test_wrong_ratio_shows_without_a_jacobian():
    """Not -log v: the determinants of there and back do not cancel."""
    planted = Involution(scale, lambda z: -z[1], exponential_pair)
    assert "r(φ(z)) r(z) = 1" in failures(validate(planted, start=positive_pair))


def test_density_at_images():
    start = lambda key: positive_pair(key)
    nan = Involution(scale, lambda z: -jnp.log(z[1]), lambda z: jnp.log(z[0] - z[1]))
    assert failures(validate(nan, start=start)) == [
        "start lies where the density is positive",
        "the density of an image is no NaN and no infinity",
    ]
    # To leave the support is no mistake: the move is rejected there.
    walk = Involution(
        lambda z: (z[0] - z[1], -z[1]),
        log_density=lambda z: jnp.where(z[0] > 0, -z[0] - z[1] ** 2, -jnp.inf),
    )
    report = validate(walk, start=start)
    assert report.verdict == "pass"
    assert "mapped to where the density is zero" in report.notes[0]


def test_whole_numbers_may_be_part_of_a_point():
    """A birth takes (theta, spare) to (theta + spare, theta - spare), a death back."""

    def birth_or_death(z):
        num, values = z
        changed = jnp.stack([values[0] + values[1], values[0] - values[1]])
        return 3 - num, jnp.where(num == 1, changed, changed / 2)

    def declared(z):
        return jnp.where(z[0] == 1, jnp.log(2.0), -jnp.log(2.0))

    def start(key):
        first, second = random.split(key)
        return 1 + random.categorical(first, jnp.zeros(2)), random.normal(second, (2,))

    validate(Involution(birth_or_death, declared), start=start).raise_if_failed()
    planted = Involution(birth_or_death, lambda z: jnp.full((), jnp.log(2.0)))
    assert failures(validate(planted, start=start)) == [LOG_DET]
    # A coordinate that is set to zero cannot be brought back.
    forgets = Involution(lambda z: (3 - z[0], z[1] * jnp.array([1.0, 0.0])))
    assert "the Jacobian is not singular" in failures(validate(forgets, start=start))


def test_involution_of_a_finite_space():
    states = np.arange(6)
    swap = Involution(lambda i: i ^ 1)
    validate(swap, start=Atoms(states, np.ones(6))).raise_if_failed()
    turn = validate(Involution(lambda i: (i + 1) % 6), start=Atoms(states, np.ones(6)))
    assert failures(turn) == ["φ(φ(z)) = z"]


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {},
            TypeError,
            "needs start=, a function of a key that draws one point u.*got nothing",
        ),
        ({"start": 3.0}, TypeError, "got float"),
        ({"start": normal_pair, "law": "draws"}, LawMismatch, "states the law L9.*leave law="),
        ({"start": lambda key: jnp.full(2, jnp.nan)}, ValueError, "point that is not finite"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        validate(LOGIT, **options)


# ---------------------------------------------------------------- keys


def test_kernels_of_the_package_use_each_key_once():
    density = BANANA.density()
    for kernel in (RandomWalk(), Independent(), MALA(), HMC(), NoUTurn()):

        def step(key, x, kernel=kernel):
            tuning = kernel.default_tuning(2)
            return kernel.step(key, kernel.init(x, density), density, tuning)[0]

        check = key_reuse_check(step, jnp.zeros(2))
        assert check.passed
        assert check.words == (
            "not checked: a key is handed to code that draws with jax.random"
            if isinstance(kernel, NoUTurn)
            else ""
        )


def test_blocks_use_each_key_once():
    """Two rounds of each loop are followed, however long it is."""
    model = fm.last_state_model(fm.random_chain(num_steps=50))
    blocks = fm.filter_blocks(model, 1000)
    filtering = blocks.start >> scan(resample("systematic") >> blocks.extension)
    assert key_reuse_check(filtering.run) == key_reuse_check(spawn(random.normal, 10**6).run)
    assert key_reuse_check(filtering.run).passed


NORMAL = {
    "normal and accept": lambda key, x: x + random.normal(key) * random.accept(key, x),
    "uniform after a split": lambda key, x: x + random.uniform(key) + len(random.split(key)),
    "bits and permutation": lambda key, x: random.permutation(key, 4) + random.bits(key),
    "a key of outside in lanes": lambda key, x: random.lanes(
        lambda k, y: y + random.normal(random.split(key)[0]), random.split(key)[1], jnp.ones(9)
    ),
    "a key of outside in lanes, used there alone": lambda key, x: (
        lambda first, second: random.lanes(
            lambda k, y: y + random.normal(first), second, jnp.ones(9)
        )
    )(*random.split(key)),
    "in each round of a loop": lambda key, x: (
        lambda first, second: random.repeat(
            lambda k, c, i: c + random.normal(first), second, x, 7
        )
    )(*random.split(key)),
    "in a loop of traced length": lambda key, x: (
        lambda first, second: random.repeat(
            lambda k, c, i: c + random.normal(first), second, x, x.astype(int)
        )
    )(*random.split(key)),
    "real_key twice": lambda key, x: (
        jax.random.normal(random.real_key(key)) + random.normal(key)
    ),
    "raw vmap": lambda key, x: jax.vmap(lambda y: y + random.normal(key))(jnp.ones(3)),
    "raw scan": lambda key, x: jax.lax.scan(
        lambda c, y: (c + random.normal(key), y), x, jnp.ones(3)
    ),
    "raw fori_loop": lambda key, x: jax.lax.fori_loop(
        0, 3, lambda i, c: c + random.uniform(key), x
    ),
}


@pytest.mark.parametrize("name", NORMAL)
def test_key_used_twice_is_found_without_running(name):
    check = key_reuse_check(NORMAL[name], jnp.zeros(()))
    assert not check.passed
    assert "already consumed" in check.words or "one draw would stand for many" in check.words


RIGHT = {
    "all draws": lambda key, x: [
        draw(part)
        for draw, part in zip(
            (
                random.normal,
                random.uniform,
                random.bits,
                lambda k: random.piecewise_uniform(k, (2,)),
            ),
            random.split(key, 4),
            strict=True,
        )
    ],
    "large permutation": lambda key, x: random.permutation(key, 1000),
    "loop of traced length": lambda key, x: random.repeat(
        lambda k, c, i: c + random.normal(k), key, x, x.astype(int)
    ),
    "scan with outputs": lambda key, x: random.scan(
        lambda k, c, y: (c + y, random.normal(k)), key, x, jnp.ones(100)
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_pass_and_keep_their_shapes(name):
    function = RIGHT[name]
    shapes: list = []

    def shaped(key, x):
        result = function(key, x)
        shapes.append(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), result))
        return result

    check = key_reuse_check(shaped, jnp.zeros(()))
    assert check.passed
    assert check.words == ""
    jax.eval_shape(shaped, accel.as_key(0), jnp.zeros(()))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda key, x: jax.random.normal(key), "draws outside of bayeskit.inference.random"),
        (lambda key, x: jax.random.split(key), "draws outside of bayeskit.inference.random"),
        (lambda key, x: jax.vmap(random.normal)(jax.random.split(key, 3)), "draws outside"),
        (
            lambda key, x: jax.lax.scan(lambda k, y: (k, y), key, jnp.ones(2))[1],
            "draws outside",
        ),
        (lambda key, x: random.normal(random.fold_in(key, 1)), "keys are made by fold_in"),
    ],
)
def test_what_cannot_be_followed_is_said(function, words):
    check = key_reuse_check(function, jnp.zeros(()))
    assert check.passed
    assert check.words.startswith("not checked: ")
    assert words in check.words


def test_mistakes_that_have_nothing_to_do_with_keys_are_raised():
    with pytest.raises(ZeroDivisionError):
        key_reuse_check(lambda key, x: 1 // 0, jnp.zeros(()))


def test_largest_difference_of_states_of_any_kind():
    one = {"x": jnp.array([1.0, jnp.nan, jnp.inf]), "flag": jnp.array(True), "n": jnp.int32(3)}
    assert float(largest_difference(one, one)) == 0.0
    assert float(largest_difference(one, {**one, "flag": jnp.array(False)})) == 1.0
    assert float(largest_difference(one, {**one, "n": jnp.int32(9)})) == 1.0
    moved = {**one, "x": jnp.array([1.2, jnp.nan, jnp.inf])}
    np.testing.assert_allclose(largest_difference(one, moved), 0.2 / 2.2, rtol=1e-6)
    lost = {**one, "x": jnp.array([jnp.nan, jnp.nan, jnp.inf])}
    assert float(largest_difference(one, lost)) == np.inf
