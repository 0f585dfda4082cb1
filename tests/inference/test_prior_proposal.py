"""Independent Metropolis-Hastings from the prior, and from the reference of a bridge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import ImproperPriorError
from bayeskit.inference.kernels import PriorProposal, metropolis, not_usable
from bayeskit.inference.measure import PointState


class NoCorrection(PriorProposal):
    """Accepts by the ratio of densities, as if the proposal were symmetric."""

    def step(self, key, state, density, tuning):
        draw_key, accept_key = bi.random.split(key)
        position = density.target.draw_prior(draw_key).astype(state.position.dtype)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        unusable = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, unusable)


def test_it_keeps_posteriors_and_a_forgotten_ratio_does_not():
    """False-alarm rate 1e-6."""
    models = ["simplex", "regression"]
    bk.validate(PriorProposal(), models=models).raise_if_failed()
    assert bk.validate(NoCorrection(), models=models).verdict == "fail"


def test_on_a_bridge_it_proposes_from_the_reference():
    """All of it is accepted where the reference is the posterior."""
    normal = lambda x, m, s: jax.scipy.stats.norm.logpdf(x, m, s).sum()
    target = bk.Target(
        log_prior=lambda x: normal(x, 0.0, 1.0),
        log_likelihood=lambda x: normal(x, 2.0, 1.0),
        sample_prior=lambda key: bi.random.normal(key, (1,)),
    )
    bridge = bi.geometric_bridge(
        target,
        lambda x: normal(x, 1.0, 0.5**0.5),
        lambda key: 1.0 + 0.5**0.5 * bi.random.normal(key, (1,)),
    )
    kernel, density = PriorProposal(), bridge.density()
    state = kernel.init(jnp.zeros(1), density)
    moved, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(1))
    assert float(info.acceptance) > 1.0 - 1e-5
    assert not np.allclose(moved.position, state.position)


def test_smc_with_it_finds_the_evidence():
    """Of a conjugate model, within 5.5 standard errors: false alarms below 1e-6."""
    normal = jax.scipy.stats.norm.logpdf
    target = bk.Target(
        log_prior=lambda x: normal(x).sum(),
        log_likelihood=lambda x: normal(x, 1.0, 0.5).sum(),
        sample_prior=lambda key: bi.random.normal(key, (2,)),
    )
    found = bk.SMC(1000, kernel=PriorProposal(), progress=False).run(target, key=0)
    exact = 2 * float(normal(1.0, 0.0, 1.25**0.5))
    assert abs(found.log_evidence - exact) < 5.5 * found.log_evidence_se


def test_a_density_alone_is_refused():
    target = bk.Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    with pytest.raises(ImproperPriorError, match="needs a target with log_prior"):
        PriorProposal().init(jnp.zeros(1), target.density())
