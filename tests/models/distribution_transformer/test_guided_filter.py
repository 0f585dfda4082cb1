"""Particle filters that propose from a network, against banks of Kalman filters."""

import jax
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import InvalidDataError
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.feynman_kac import FeynmanKac
from tests.models.distribution_transformer import exact_mixtures

START = bk.GaussianMixture([0.3, 0.7], [-1.0, 1.0], [1.0, 0.5])
ZS = np.array([0.4, -1.2, 0.1, 1.9, 2.2])
MOTION = {"A": 0.9, "Q": 0.5, "x0": START}
EXACT, LOG_EVIDENCE = exact_mixtures.filtered(
    exact_mixtures.predicted(START, 0.9, 0.0, 0.5), ZS[:, None], 0.9, 0.5, 1.0, 1.0
)


@pytest.mark.filterwarnings("ignore::bayeskit.errors.OutOfMetaPriorWarning")
@pytest.mark.parametrize("which", ["exact", "learned"])
def test_moments_and_evidence_are_those_of_kalman_filters(which, request):
    """Within 5.5 standard errors: false alarms below 1e-6.

    The network of ``learned`` saw few steps of training, and its own filter is further off.
    """
    dt = request.getfixturevalue(which)
    found = dt.filter(ZS, **MOTION, refine="particles", n_particles=2000, random_state=0)
    assert found.reliable and found.particles.shape == (5, 2000, 1)
    assert repr(found).startswith("RefinedFilterResult(5 times, 2000 particles, smallest ess=")
    mean = np.array([one.mean for one in EXACT])
    std = np.array([one.std for one in EXACT])
    # Particles that were resampled are worth fewer: half is allowed for.
    errors = std / np.sqrt(0.5 * found.ess)[:, None]
    assert np.all(np.abs(found.mean - mean) < 5.5 * errors)
    assert np.all(np.abs(found.std / std - 1) < 5.5 / np.sqrt(found.ess)[:, None])
    assert abs(found.log_evidence - LOG_EVIDENCE) < 5.5 * found.log_evidence_se
    if which == "learned":
        amortised = dt.filter(ZS, **MOTION)
        assert np.any(np.abs(amortised.posterior.mean - mean) > 5.5 * errors)


def forgetful(guided):
    """Weigh as if the particles had moved by the motion alone."""

    def log_g(x):
        return jax.scipy.stats.norm.logpdf(x.u[0], 0.0, 1.0)

    return FeynmanKac(
        initial=guided.initial.function
        if hasattr(guided.initial, "function")
        else guided.initial,
        log_g0=log_g,
        kernel=guided.kernel,
        log_g=lambda t, before, x: log_g(x),
        num_steps=guided.num_steps,
    )


def test_the_evidence_is_unbiased(learned):
    """By the validator, with a network that is rough. False-alarm rate 1e-6.

    Weights that forget the proposal fail.
    """
    zs = np.zeros(2)
    _, log_evidence = exact_mixtures.filtered(
        exact_mixtures.predicted(START, 0.9, 0.0, 0.5), zs[:, None], 0.9, 0.5, 1.0, 1.0
    )

    def estimate(guided_of):
        def run(key):
            guided = guided_of(learned.guided_model(zs, **MOTION))
            return bi.run(bi.particle_filter(guided, 8), key).log_evidence

        return run

    level = bk.validation.Level(num_stages=2, growth=4, first=10_000, num_frequencies=0)
    settings = {"law": "unbiased", "expected": log_evidence, "level": level}
    bk.validate(estimate(lambda guided: guided), **settings).raise_if_failed()
    assert bk.validate(estimate(forgetful), **settings).verdict == "fail"


def test_a_batch_and_missing_times(exact):
    zs = np.stack([ZS, ZS + 1.0])[:, :, None]
    settings = {**MOTION, "refine": "particles", "n_particles": 500, "random_state": 1}
    exact.filter(zs, **settings)
    zs[0, 2] = np.nan
    with CompileClock() as clock:
        both = exact.filter(zs, **settings, missing="mask")
    assert clock.num_compiled == 0
    assert len(both) == 2
    _, whole = exact_mixtures.filtered(
        exact_mixtures.predicted(START, 0.9, 0.0, 0.5), ZS[:, None] + 1, 0.9, 0.5, 1.0, 1.0
    )
    assert abs(both[1].log_evidence - whole) < 5.5 * both[1].log_evidence_se


def test_bad_arguments(exact):
    with pytest.raises(ValueError, match="refine must be 'particles' or None"):
        exact.filter(ZS, **MOTION, refine="psis")
    for call in (
        lambda **given: exact.filter(ZS, **given, refine="particles"),
        lambda **given: exact.guided_model(ZS, **given),
    ):
        with pytest.raises(ValueError, match="Q must be positive definite"):
            call(**{**MOTION, "Q": 0.0})
        with pytest.raises(InvalidDataError, match="c has nan"):
            call(**MOTION, c=np.nan)
        with pytest.raises(InvalidDataError, match=r"c must have shape \(1,\), got \(2,\)"):
            call(**MOTION, c=[0.0, 1.0])
    with pytest.raises(InvalidDataError, match="one series at a time"):
        exact.guided_model(np.zeros((2, 5, 1)), **MOTION)
