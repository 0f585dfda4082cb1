"""Targets and tempered paths: both forms of a density, vectors, edges, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.errors import ImproperPriorError, MissingGradientError
from bayeskit.inference import (
    HMC,
    MALA,
    Density,
    DiscreteMetropolis,
    NoUTurn,
    PointState,
    RandomWalk,
    Target,
    TemperedPath,
    random,
)
from bayeskit.inference.measure import safe_dot

SCALE = 2.0


def log_prior(x):
    return -0.5 * jnp.sum(x**2)


def log_likelihood(x, data):
    return -0.5 * jnp.sum((data - x) ** 2) / SCALE**2


SPLIT = Target(
    log_prior=log_prior,
    log_likelihood=log_likelihood,
    sample_prior=lambda key: random.normal(key, (2,)),
    data=(jnp.array([1.0, -3.0]),),
)
WHOLE = Target(log_density=lambda x: -0.5 * jnp.sum(x**2))


# ---------------------------------------------------------------- targets


def test_components_of_both_forms():
    x = jnp.array([0.5, 2.0])
    assert SPLIT.num_components == 2
    assert WHOLE.num_components == 1
    np.testing.assert_allclose(
        SPLIT.components(x), [log_prior(x), log_likelihood(x, SPLIT.data[0])]
    )
    np.testing.assert_allclose(WHOLE.components(x), [log_prior(x)])
    assert float(SPLIT.density()(x)) == pytest.approx(float(SPLIT.components(x).sum()))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"log_prior": log_prior},
        {"log_likelihood": log_likelihood},
        {
            "log_density": log_prior,
            "log_prior": log_prior,
            "log_likelihood": log_likelihood,
        },
    ],
    ids=lambda given: " and ".join(given) or "nothing",
)
def test_target_needs_exactly_one_form(given):
    with pytest.raises(TypeError, match="give either log_density, or both") as caught:
        Target(**given)
    for name in given:
        assert name in str(caught.value)


def test_data_are_arguments_of_one_compiled_program():
    traces = []

    @jax.jit
    def density_at(target, x):
        traces.append(1)
        return target.density()(x)

    x = jnp.zeros(2)
    values = [
        float(density_at(SPLIT.with_data(jnp.full(2, value)), x)) for value in (0.0, 1.0, 2.0)
    ]
    assert values == pytest.approx([0.0, -0.25, -1.0])
    assert len(traces) == 1


def test_structured_positions_as_vectors():
    target = Target(
        log_prior=lambda x: -jnp.sum(x["a"] ** 2) - x["b"],
        log_likelihood=lambda x, y: y * x["b"],
        sample_prior=lambda key: {"a": random.normal(key, (2, 2)), "b": jnp.float32(1.5)},
        data=(3.0,),
    )
    flat = target.on_vectors(target.position_spec())
    vector = flat.sample_prior(jax.random.key(0))
    position = target.sample_prior(jax.random.key(0))
    assert vector.shape == (5,)
    np.testing.assert_allclose(flat.components(vector), target.components(position), rtol=1e-6)
    named = flat.constrain(vector, *flat.data)
    assert set(named) == {"a", "b"}
    np.testing.assert_allclose(named["a"], position["a"])
    # Equal structures give equal functions, so that compiled programs are shared.
    again = target.on_vectors(target.position_spec())
    assert again.log_prior == flat.log_prior


def test_vectors_stay_as_they_are():
    flat = SPLIT.on_vectors(SPLIT.position_spec())
    assert flat.log_prior is SPLIT.log_prior
    np.testing.assert_array_equal(flat.constrain(jnp.ones(2))["x"], np.ones(2))


def test_position_without_a_prior_to_draw_from():
    with pytest.raises(ImproperPriorError, match=r"no sample_prior.*no evidence"):
        WHOLE.position_spec()


# ---------------------------------------------------------------- densities


@pytest.mark.parametrize(
    ("coefficients", "components", "expected"),
    [
        ([1.0, 0.5], [-1.0, -4.0], -3.0),
        ([1.0, 0.0], [-1.0, -np.inf], -1.0),  # at temperature 0 the likelihood is not asked
        ([1.0, 0.0], [-1.0, np.nan], -1.0),
        ([1.0, 0.5], [-1.0, -np.inf], -np.inf),
        ([1.0, 0.5], [-1.0, np.nan], -np.inf),
        ([1.0, 1.0], [np.inf, -np.inf], -np.inf),
    ],
)
def test_safe_dot(coefficients, components, expected):
    value = safe_dot(jnp.asarray(coefficients), jnp.asarray(components))
    assert float(value) == expected


def test_gradient_of_a_density():
    path = TemperedPath(SPLIT)
    density = path.at(path.start()._replace(current=jnp.float32(0.3)))
    x = jnp.array([0.5, 2.0])
    components, gradient = density.components_and_gradient(x)
    np.testing.assert_allclose(components, SPLIT.components(x), rtol=1e-6)
    np.testing.assert_allclose(gradient, -x + 0.3 * (SPLIT.data[0] - x) / SCALE**2, rtol=1e-5)
    assert isinstance(density, Density)


# ---------------------------------------------------------------- tempered paths


def test_path_from_prior_to_posterior():
    path = TemperedPath(SPLIT)
    x = jnp.array([0.5, 2.0])
    start = path.start()
    assert not path.is_complete(start)
    assert float(path.at(start)(x)) == pytest.approx(float(log_prior(x)))
    end = start._replace(previous=jnp.float32(0.25), current=jnp.float32(1.0))
    assert path.is_complete(end)
    assert float(path.at(end)(x)) == pytest.approx(float(SPLIT.density()(x)))
    particle = PointState(x, SPLIT.components(x))
    increment = float(path.increment(end, particle))
    assert increment == pytest.approx(0.75 * float(log_likelihood(x, SPLIT.data[0])))


def test_zero_step_ignores_a_likelihood_of_zero():
    path = TemperedPath(SPLIT)
    nowhere = PointState(jnp.zeros(2), jnp.array([0.0, -jnp.inf]))
    stage = path.start()
    assert float(path.increment(stage, nowhere)) == 0.0
    assert float(path.at(stage)(jnp.zeros(2))) == pytest.approx(0.0)


def test_initial_particles_carry_their_components():
    particle = TemperedPath(SPLIT).initial(jax.random.key(1))
    np.testing.assert_allclose(particle.components, SPLIT.components(particle.position))
    assert particle.gradient == ()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (WHOLE, "given as a log_density alone"),
        (
            Target(log_prior=log_prior, log_likelihood=log_likelihood),
            "given as no sample_prior",
        ),
    ],
)
def test_path_without_a_prior_to_start_from(target, message):
    with pytest.raises(ImproperPriorError, match=message):
        TemperedPath(target)


# ---------------------------------------------------------------- what kernels refuse


@pytest.mark.parametrize("kernel", [HMC(), MALA(), NoUTurn()], ids=lambda kernel: kernel.name)
def test_gradient_kernel_needs_a_gradient(kernel):
    target = Target(log_density=log_prior, has_gradient=False)
    with pytest.raises(MissingGradientError, match=r"follows the gradient.*has_gradient=False"):
        kernel.init(jnp.zeros(2), target.density())


@pytest.mark.parametrize("kernel", [HMC(), MALA(), RandomWalk()], ids=lambda k: k.name)
@pytest.mark.parametrize(
    ("position", "message"),
    [
        (np.zeros(2, np.int32), "got a position of dtype int32. Convert it, or use a kernel"),
        (np.zeros((), np.float32), r"positions of shape \(dim,\), got shape \(\)"),
        ([0.0, 1.0], "got a position of dtype list"),
    ],
    ids=["integers", "scalar", "list"],
)
def test_continuous_kernel_needs_vectors_of_floats(kernel, position, message):
    with pytest.raises(TypeError, match=message):
        kernel.init(position, WHOLE.density())


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        (((0.5, 0.5), (1.0,)), "proposal must be square: row 1 has 1 entries, there are 2"),
        (((0.5, 0.5), (0.4, 0.5)), "row 1 of proposal must hold probabilities.*sum 0.9"),
        (((1.5, -0.5), (0.5, 0.5)), "row 0 of proposal must hold probabilities"),
    ],
)
def test_proposal_table_that_is_none(proposal, message):
    with pytest.raises(ValueError, match=message):
        DiscreteMetropolis(proposal)
