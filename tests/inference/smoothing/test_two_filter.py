"""Two filters that meet, enumerated; forgotten factors are caught."""

import jax
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import MissingDensityError
from bayeskit.inference import random
from bayeskit.inference.algorithms.two_filter import TwoFilter
from bayeskit.inference.population import reweigh
from bayeskit.validation import Atoms, exact
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
MODEL = fm.last_state_model(CHAIN)
RNG = np.random.default_rng(8)
ARTIFICIAL = RNG.random((3, 2)) + 0.2
END = np.log(RNG.dirichlet(np.ones(2)))
BACK = np.log(RNG.dirichlet(np.ones(2), 2))


def information_filter(**changes):
    parts = {
        "log_artificial": lambda t, x: fm.log_table(np.log(ARTIFICIAL))[t, x],
        "initial": lambda key: random.categorical(key, fm.log_table(END)),
        "log_initial": lambda x: fm.log_table(END)[x],
        "kernel": lambda key, t, after: random.categorical(key, fm.log_table(BACK)[after]),
        "log_kernel": lambda t, after, x: fm.log_table(BACK)[after, x],
    }
    return bi.InformationFilter(**{**parts, **changes})


def pair_measure(time):
    paths = fm.path_measure(CHAIN)
    pairs = (paths.state[:, time - 1], paths.state[:, time])
    return exact.merge(Atoms(pairs, paths.mass))


@pytest.mark.parametrize(("time", "ess_below"), [(1, None), (2, 0.8)])
def test_pairs_are_properly_weighted(time, ess_below):
    smoother = bi.two_filter(MODEL, information_filter(), 2, time, ess_below=ess_below)
    fm.assert_exact(smoother, pair_measure(time))
    assert f"L2 properly weighted for γ on paths at {time - 1}, {time}" in smoother.explain()


class ArtificialPriorKept(TwoFilter):
    """Planted: pairs are not divided by the artificial prior."""

    def run(self, key, population=None):
        pairs, info = super().run(key)
        log_artificial = jax.vmap(lambda x: self.log_artificial(self.time, x))
        return reweigh(pairs, log_artificial(pairs.particles[1])), info


class OneEvidence(TwoFilter):
    """Planted: the scale is the evidence of the filter from the start alone."""

    def run(self, key, population=None):
        pairs, info = super().run(key)
        end = sum(
            np.sum(value) if isinstance(value, np.ndarray) else value.sum()
            for name, value in info.items()
            if name.startswith("log_evidence_increment") and name.endswith("backward")
        )
        return pairs._replace(log_evidence=pairs.log_evidence - end), info


@pytest.mark.parametrize("wrong", [ArtificialPriorKept, OneEvidence])
def test_forgotten_factors_are_caught(wrong):
    right = bi.two_filter(MODEL, information_filter(), 2, 1)
    parts = (right.forward, right.from_end, right.model, right.log_artificial, right.time)
    fm.assert_caught(wrong(*parts), pair_measure(1))


def test_kernel_without_its_density_is_caught():
    flat = information_filter(log_kernel=lambda t, after, x: fm.log_table(END)[x])
    fm.assert_caught(bi.two_filter(MODEL, flat, 2, 1), pair_measure(1))


def test_wrong_input():
    for time in (0, 3):
        with pytest.raises(ValueError, match="time must be from 1 to 2"):
            bi.two_filter(MODEL, information_filter(), 2, time)
    bare = bi.FeynmanKac(
        initial=MODEL.initial,
        log_g0=lambda x: 0.0,
        kernel=MODEL.kernel,
        log_g=MODEL.log_g,
        num_steps=3,
    )
    with pytest.raises(MissingDensityError, match="two-filter smoothing needs log_m"):
        bi.two_filter(bare, information_filter(), 2, 1)
