"""Jumps between models: enumerated on the battery, and on a regression in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.inference import law
from bayeskit.validation import Atoms, Level, battery
from tests.inference.finite_models import log_table

# Few replicates: what the planted mistakes change is large.
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)

# ---------------------------------------------------------------- finite: the battery's models

TWO = battery()["two_models"]
TWO_TARGET = bk.Target(
    log_density=lambda s: TWO.target.log_density(jnp.concatenate([s[0][None], s[1]])),
    has_gradient=False,
)
NEW = np.log([0.5, 0.3, 0.2])


def sample_new(key, new, x):
    return bi.random.categorical(key, log_table(NEW))[None]


def log_new(new, x, u):
    return log_table(NEW)[u]


def atoms_of(step, states, mass):
    with jax.enable_x64(True):
        pairs = (jnp.asarray(states[:, 0]), jnp.asarray(states[:, 1:]))
        start = jax.vmap(lambda k, x: step.init(None, (k, x)))(*pairs)
        return Atoms(jax.tree.map(np.asarray, start), mass)


def test_two_models_have_their_odds():
    jump = bi.reversible_jump(TWO_TARGET, [[0.4, 0.6], [0.3, 0.7]], sample_new, log_new)
    assert jump.law_kind is law.REVERSIBLE
    bk.validate(jump, start=atoms_of(jump, TWO.atoms.state, TWO.atoms.mass)).raise_if_failed()
    assert "reversible jump: draw v ~ ρ(x, ·)" in jump.explain()


# ---------------------------------------------------------------- finite: births and deaths

# Models with 0, 1 or 2 parameters of two values each; what is not in use is 0.
STATES = np.array(
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1)], np.int32
)
MASS = np.array([0.3, 0.25, 0.4, 0.1, 0.35, 0.2, 0.15])
BIT = np.log(np.array([[0.3, 0.7], [0.6, 0.4]]))


def log_mass(state):
    full = jnp.concatenate([state[0][None], state[1]])
    place = jnp.argmax(jnp.all(jnp.asarray(STATES) == full, axis=1))
    return log_table(np.log(MASS))[place]


NESTED = bk.Target(log_density=log_mass, has_gradient=False)


def sample_bits(key, new, x):
    """The proposal of the second bit depends on the first."""
    first, second = bi.random.split(key)
    table = log_table(BIT)
    draws = bi.random.categorical(first, table[0]), bi.random.categorical(second, table[x[0]])
    return jnp.stack(draws)


def log_bits(new, x, u):
    return jnp.stack([log_table(BIT)[0, u[0]], log_table(BIT)[x[0], u[1]]])


JUMP = bi.reversible_jump(NESTED, bi.birth_death(3, birth=0.4), sample_bits, log_bits)


def validate_nested(jump):
    return bk.validate(jump, start=atoms_of(jump, STATES, MASS))


def test_births_and_deaths():
    validate_nested(JUMP).raise_if_failed()


def test_forgotten_probabilities_at_the_boundary_are_caught():
    """Planted (20): at k = 0 a birth is certain, which the ratio forgets."""

    def forgetful(state, auxiliary):
        at_the_end = state[0] == 0
        log_density = JUMP.log_auxiliary(state, auxiliary)
        return log_density + jnp.where(at_the_end, jnp.log(0.4), 0.0)

    wrong = dataclasses.replace(JUMP, log_auxiliary=forgetful)
    assert validate_nested(wrong).verdict == "fail"


def test_any_set_of_coordinates():
    """Variable selection: every subset of two coordinates is a model, all jumps alike."""
    subsets = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], bool)
    states = np.array(
        [
            (m, a, b)
            for m, (i, j) in enumerate(subsets)
            for a in range(i + 1)
            for b in range(j + 1)
        ],
        np.int32,
    )
    mass = np.random.default_rng(5).dirichlet(np.ones(len(states)))

    def log_density(state):
        full = jnp.concatenate([state[0][None], state[1]])
        place = jnp.argmax(jnp.all(jnp.asarray(states) == full, axis=1))
        return log_table(np.log(mass))[place]

    select = bi.reversible_jump(
        bk.Target(log_density=log_density, has_gradient=False),
        np.full((4, 4), 0.25),
        sample_bits,
        log_bits,
        active=lambda model, num: jnp.asarray(subsets)[model],
    )
    bk.validate(select, start=atoms_of(select, states, mass)).raise_if_failed()


# ---------------------------------------------------------------- a regression

GRID = np.linspace(-1, 1, 12)
TERMS = np.stack([np.ones_like(GRID), GRID, GRID**2], axis=1)
NOISE, SCALE = 0.5, np.array([1.0, 2.0, 1.5])
Y = TERMS @ np.array([0.4, -0.6, 0.3]) + NOISE * np.random.default_rng(2).normal(size=12)
LOG_PRIOR = np.log([0.1, 0.2, 0.3, 0.4])


def exact_models():
    """Log evidence, posterior mean and covariance of the models with the first k terms."""
    found = []
    for k in range(4):
        terms, scale = TERMS[:, :k], SCALE[:k]
        spread = terms @ np.diag(scale**2) @ terms.T + NOISE**2 * np.eye(12)
        log_det = np.linalg.slogdet(2 * np.pi * spread)[1]
        evidence = -0.5 * (log_det + Y @ np.linalg.solve(spread, Y))
        covariance = np.linalg.inv(terms.T @ terms / NOISE**2 + np.diag(scale**-2.0))
        found.append((evidence, covariance @ terms.T @ Y / NOISE**2, covariance))
    return found


MODELS = exact_models()
LOG_POSTERIOR = LOG_PRIOR + np.array([evidence for evidence, *_ in MODELS])


def as_x(values, x):
    return jnp.asarray(values, x.dtype)


def log_density(state):
    k, x = state
    prior = jnp.where(jnp.arange(3) < k, norm.logpdf(x, 0.0, as_x(SCALE, x)), 0.0)
    fit = norm.logpdf(as_x(Y, x), as_x(TERMS, x) @ x, NOISE)
    return jnp.sum(fit) + jnp.sum(prior) + as_x(LOG_PRIOR, x)[k]


REGRESSION = bk.Target(log_density=log_density)


def sample_exact(key):
    model_key, value_key = bi.random.split(key)
    k = bi.random.categorical(model_key, log_table(LOG_POSTERIOR))
    means, factors = np.zeros((4, 3)), np.zeros((4, 3, 3))
    for number, (_, mean, covariance) in enumerate(MODELS):
        means[number, :number] = mean
        factors[number, :number, :number] = np.linalg.cholesky(covariance)
    noise = bi.random.normal(value_key, (3,))
    return k, log_table(means)[k] + log_table(factors)[k] @ noise


def conditional(x):
    """Mean and scale of each coefficient given the others as they are."""
    terms = as_x(TERMS, x)
    precision = jnp.sum(terms**2, axis=0) / NOISE**2 + as_x(SCALE, x) ** -2.0
    return terms.T @ (as_x(Y, x) - terms @ x) / NOISE**2 / precision, precision**-0.5


def sample_coefficient(key, new, x):
    mean, scale = conditional(x)
    return mean + scale * bi.random.normal(key, (3,), x.dtype)


def log_coefficient(new, x, u):
    return norm.logpdf(u, *conditional(x))


def sampler(log_new=log_coefficient):
    return bi.reversible_jump_mcmc(
        REGRESSION, bi.birth_death(4), sample_coefficient, log_new,
        within=bi.walk_within(REGRESSION, 0.3),
    )  # fmt: skip


def validate_regression(step):
    def start(key):
        return step.init(None, sample_exact(key))

    return bk.validate(step, start=start, observed=lambda s: s.position, level=LEVEL)


def test_number_of_terms():
    """From exact draws, false-alarm rate 1e-6; and the odds that one chain finds.

    The share of each model in 20 batches of 1000: within 8 standard errors, below 1e-6 for
    four values of Student's t with 19 degrees of freedom.
    """
    step = sampler()
    validate_regression(step).raise_if_failed()
    (k, x), info = bi.chain(step, (jnp.asarray(0), jnp.zeros(3)), 20_000, key=1)
    assert not np.any(info.not_finite)
    assert np.all(np.asarray(x)[np.arange(3) >= np.asarray(k)[:, None]] == 0)
    share = (np.asarray(k)[:, None] == np.arange(4)).reshape(20, 1000, 4).mean(1)
    exact = np.exp(LOG_POSTERIOR - np.logaddexp.reduce(LOG_POSTERIOR))
    error = share.std(0, ddof=1) / np.sqrt(20)
    assert np.all(error < 0.02)
    assert np.all(np.abs(share.mean(0) - exact) < 8 * error)


def test_a_forgotten_proposal_density_is_caught():
    wrong = sampler(lambda new, x, u: jnp.zeros(3))
    assert validate_regression(wrong).verdict == "fail"


def test_split_with_an_automatic_jacobian():
    """The first coefficient is split in two: an involution of one's own, Jacobian 2 or 1/2."""

    def split(z):
        (k, x), (new, u) = z
        apart = jnp.stack([x[0] - u[1], x[0] + u[1]])
        joined = jnp.stack([(x[0] + x[1]) / 2, u[1]])
        grows, shrinks = new > k, new < k
        pair = jnp.where(grows, apart, jnp.where(shrinks, joined, x[:2]))
        back = jnp.where(grows, x[1], jnp.where(shrinks, (x[1] - x[0]) / 2, u[1]))
        return (new, x.at[:2].set(pair)), (k, u.at[1].set(back))

    jumps = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])

    def build(involution):
        return bi.reversible_jump(
            REGRESSION,
            jumps,
            lambda key, new, x: bi.random.normal(key, (3,), x.dtype),
            lambda new, x, u: norm.logpdf(u),
            involution=involution,
        )

    validate_regression(build(split)).raise_if_failed()
    forgotten = bi.Involution(split)  # declares that volume is preserved
    assert validate_regression(build(forgotten)).verdict == "fail"


def test_wrong_input():
    with pytest.raises(ValueError, match="rows add up to 1"):
        bi.reversible_jump(NESTED, [[0.5, 0.4], [1.0, 0.0]], sample_bits, log_bits)
    with pytest.raises(ValueError, match="models 0 and 1 are joined one way only"):
        bi.reversible_jump(NESTED, [[0.5, 0.5], [0.0, 1.0]], sample_bits, log_bits)
    with pytest.raises(ValueError, match="at least 2 models"):
        bi.birth_death(1)
