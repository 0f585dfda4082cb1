"""Tempered SMC from an amortised posterior to the exact one."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.inference.engines import SMC
from bayeskit.models.distribution_transformer.refine.kernel import moves_for
from bayeskit.models.distribution_transformer.refine.posterior import RefinedPosterior
from bayeskit.models.distribution_transformer.refine.problem import Refinement

__all__ = ["tempered"]


def tempered(
    refinement: Refinement, num_draws: int, key: Any, first: RefinedPosterior
) -> RefinedPosterior:
    r"""Return the posterior by SMC along :math:`q_a^{1-\lambda} (p\, L)^\lambda`.

    Temperatures are chosen by the effective sample size; a good q needs one or two.

    Parameters
    ----------
    first : RefinedPosterior
        By importance sampling: what it says of the amortised posterior is reported.
    """
    kernel = moves_for(refinement.has_gradient)
    engine = SMC(num_particles=num_draws, kernel=kernel, progress=False)
    found = engine.run(refinement.bridge(), key=key)
    num_chains = found.positions.shape[0]
    positions = found.positions.reshape(-1, found.positions.shape[-1])
    num = len(positions)
    assert found.log_evidence is not None and found.log_evidence_se is not None
    return RefinedPosterior(
        method="smc",
        positions=np.asarray(positions, np.float64),
        log_weights=np.full(num, -np.log(num)),
        support=refinement.support,
        target=refinement.target(),
        ess=found.diagnostics.ess_bulk_min,
        khat=first.khat,
        defended_khat=first.defended_khat,
        log_evidence=found.log_evidence,
        log_evidence_se=found.log_evidence_se,
        r_hat=found.diagnostics.r_hat_max,
        reasons=found.diagnostics.reasons,
        num_chains=num_chains,
        law=found.law,
        acceptance=found.diagnostics.acceptance,
    )
