"""Finite models with asymmetric tables, and the measures they stand for, by brute force.

Every table comes from a Dirichlet distribution with a fixed seed: on uniform tables many
mistakes cancel. Tables are NumPy float64 arrays, so that a model runs in the precision of
whoever runs it: single on ordinary keys, double where paths are enumerated.
"""

import functools
import itertools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import (
    DiscreteMetropolis,
    FeynmanKac,
    Target,
    TemperedPath,
    extend,
    move,
    random,
    resample,
    scan,
    schedule,
    spawn,
    until,
    weigh,
)
from bayeskit.validation import exact
from bayeskit.validation.exact import Atoms

# An identity between finite sums in float64: anything above is a mistake, not rounding.
TOLERANCE = 1e-10
# A planted mistake must show by much more than that.
CAUGHT = 1e-3
NOTHING = Atoms(np.zeros((1, 1)), np.ones(1))


def assert_exact(block, expected, enumeration=None, **options):
    error = exact.weighting_discrepancy(block, expected, enumeration, **options)
    assert error < TOLERANCE, f"{block.name}: discrepancy {error:.3e}, not 0"


def assert_caught(block, expected, **options):
    """The check of `assert_exact` must find that a planted mistake changes the law."""
    error = exact.weighting_discrepancy(block, expected, **options)
    print(f"{block.name}: discrepancy {error:.2e}")
    assert error > CAUGHT, f"{block.name}: discrepancy only {error:.3e}"


def mean_evidence(block, enumeration=None):
    """The exact mean of the evidence estimate of a block that starts from nothing."""
    with jax.enable_x64(True):
        return exact.push(block, NOTHING, enumeration or exact.Enumeration()).mass.sum()


def log_table(table):
    """A table as an array of the precision at hand, to be indexed by a traced state."""
    return jnp.asarray(table, jnp.result_type(float))


# ---------------------------------------------------------------- state spaces


class Chain(NamedTuple):
    """A hidden Markov chain with potentials, and the proposals of a guided filter."""

    log_initial: np.ndarray  # (K,)
    log_transition: np.ndarray  # (K, K)
    log_proposal: np.ndarray  # (K, K)
    log_potential: np.ndarray  # (T, K)

    @property
    def num_states(self):
        return len(self.log_initial)

    @property
    def num_steps(self):
        return len(self.log_potential)

    def log_increment(self, t, before, after):
        """What a guided filter adds: potential times transition over proposal."""
        correction = log_table(self.log_transition - self.log_proposal)[before, after]
        return log_table(self.log_potential)[t, after] + correction


def random_chain(num_states=2, num_steps=3, seed=0, guided=True):
    rng = np.random.default_rng(seed)
    rows = lambda *shape: np.log(rng.dirichlet(np.ones(num_states), shape or None))
    initial, transition, proposal = rows(), rows(num_states), rows(num_states)
    potential = np.log(rng.random((num_steps, num_states)) + 0.1)
    return Chain(initial, transition, proposal if guided else transition, potential)


def path_model(chain):
    """Feynman-Kac model whose particles carry their whole path, int32 (T,)."""

    def initial(key):
        state = random.categorical(key, log_table(chain.log_initial))
        return jnp.zeros(chain.num_steps, jnp.int32).at[0].set(state)

    def kernel(key, t, path):
        state = random.categorical(key, log_table(chain.log_proposal)[path[t - 1]])
        return path.at[t].set(state)

    return FeynmanKac(
        initial=initial,
        log_g0=lambda path: log_table(chain.log_potential)[0, path[0]],
        kernel=kernel,
        log_g=lambda t, before, path: chain.log_increment(t, before[t - 1], path[t]),
        num_steps=chain.num_steps,
    )


def path_measure(chain):
    """γ on every path, by multiplication."""
    paths = list(itertools.product(range(chain.num_states), repeat=chain.num_steps))
    log_mass = [
        chain.log_initial[path[0]]
        + sum(chain.log_potential[t, state] for t, state in enumerate(path))
        + sum(chain.log_transition[pair] for pair in itertools.pairwise(path))
        for path in paths
    ]
    return Atoms(np.array(paths, np.int32), np.exp(log_mass))


def last_state_model(chain):
    """The same model with particles that carry their last state only, for long series."""
    bound = chain.log_proposal.max()
    return FeynmanKac(
        initial=lambda key: random.categorical(key, log_table(chain.log_initial)),
        log_g0=lambda x: log_table(chain.log_potential)[0, x],
        kernel=lambda key, t, x: random.categorical(key, log_table(chain.log_proposal)[x]),
        log_g=chain.log_increment,
        num_steps=chain.num_steps,
        log_m0=lambda x: log_table(chain.log_initial)[x],
        log_m=lambda t, before, x: log_table(chain.log_proposal)[before, x],
        log_m_bound=lambda t: jnp.asarray(bound, jnp.result_type(float)),
    )


def bootstrap_model(chain):
    """The same measure by a bootstrap filter, whose potential sees the last state only."""
    bootstrap = chain._replace(log_proposal=chain.log_transition)
    model = last_state_model(bootstrap)
    return FeynmanKac(
        initial=model.initial,
        log_g0=lambda x: log_table(chain.log_potential)[0, x],
        kernel=model.kernel,
        log_g=lambda t, before, x: log_table(chain.log_potential)[t, x],
        num_steps=chain.num_steps,
        log_m0=model.log_m0,
        log_m=model.log_m,
        log_m_bound=model.log_m_bound,
    )


def last_state_measure(chain):
    """The marginal of γ at the last time, by the forward recursion."""
    mass = np.exp(chain.log_initial + chain.log_potential[0])
    for potential in chain.log_potential[1:]:
        mass = (mass @ np.exp(chain.log_transition)) * np.exp(potential)
    return Atoms(np.arange(chain.num_states), mass)


class FilterBlocks(NamedTuple):
    """The blocks of a particle filter, kept so that filters can share what they compile."""

    model: FeynmanKac
    start: object
    extension: object

    def with_resampling(self, resampling):
        return self.start >> scan(resampling >> self.extension)

    def with_extension(self, extension, scheme="multinomial", ess_below=None):
        return self.start >> scan(resample(scheme, ess_below) >> extension)


def filter_blocks(model, num_particles, track_lineage=False):
    start = spawn(model.initial, num_particles, track_lineage=track_lineage)
    extension = extend(model.kernel, model.log_g)
    return FilterBlocks(model, start >> weigh(model.log_g0), extension)


# ---------------------------------------------------------------- tempered targets


class TemperedModel(NamedTuple):
    """A prior, a likelihood and a proposal table on a few states."""

    log_prior: np.ndarray  # (K,)
    log_likelihood: np.ndarray  # (K,)
    proposal: np.ndarray  # (K, K)

    @property
    def target(self):
        return Target(
            log_prior=lambda x: log_table(self.log_prior)[x],
            log_likelihood=lambda x: log_table(self.log_likelihood)[x],
            sample_prior=lambda key: random.categorical(key, log_table(self.log_prior)),
            has_gradient=False,
        )

    @property
    def kernel(self):
        return DiscreteMetropolis(tuple(map(tuple, self.proposal)))

    def measure(self, inverse_temperature=1.0):
        log_mass = self.log_prior + inverse_temperature * self.log_likelihood
        return Atoms(np.arange(len(log_mass)), np.exp(log_mass))


def tempered_model(num_states=3, seed=1, spread=2.0):
    rng = np.random.default_rng(seed)
    log_prior = np.log(rng.dirichlet(np.ones(num_states)))
    log_likelihood = spread * rng.normal(size=num_states)
    return TemperedModel(
        log_prior, log_likelihood, rng.dirichlet(np.ones(num_states), num_states)
    )


LADDER = (0.0, 0.2, 0.5, 1.0)


def tempering_start(path, num_particles, track_lineage=False):
    return spawn(path.initial, num_particles, stage=path.start(), track_lineage=track_lineage)


def tempered_blocks(
    model,
    num_particles,
    *,
    scheduling=lambda path: schedule(path, ladder=LADDER),
    weighing=lambda path: weigh(path.increment),
    resampling=lambda path: resample("systematic"),
    moving=None,
    path_type=TemperedPath,
    track_lineage=False,
):
    """Tempered SMC made of blocks, each a function of the path so that it can be replaced."""
    path = path_type(model.target)
    moving = moving or (lambda path: move(model.kernel, path, repeats=1))
    parts = [part(path) for part in (scheduling, weighing, resampling, moving) if part]
    stage = functools.reduce(operator.rshift, parts)
    start = tempering_start(path, num_particles, track_lineage)
    return start >> until(path.is_complete, stage)


def positions(particles):
    return particles.position
