"""Signs that chains do not stand for the posterior, in words."""

from __future__ import annotations

import numpy as np

from bayeskit.inference.diagnostics import MAX_RHAT
from bayeskit.inference.engines.ensemble.program import Record
from bayeskit.inference.engines.ensemble.start import Start

__all__ = ["MAX_DIVERGENT_SHARE", "found_in_chains", "found_in_modes"]

# Share of the transitions that may be divergent or not finite.
MAX_DIVERGENT_SHARE = 1e-3
_MIN_STEP_SIZE = 1e-6
_MIN_ACCEPTANCE = 0.3
# A chain that accepts less than this share of the median is stuck.
_STUCK = 1 / 3
# Below this exponent the start is far from normal, and slow chains mean more than bad luck.
_POOR_START = 0.3
_SLOW_RHAT = 1.05


def found_in_modes(start: Start, positions: np.ndarray) -> list[str]:
    """Return a reason if separate modes carry weight and no chain crosses between them.

    Parameters
    ----------
    positions : (iteration, chain, dim) array
    """
    num = len(start.separate_modes)
    if num == 1:
        return []
    flat = positions.reshape(-1, positions.shape[-1])
    distances = [np.sum(mode.whiten(flat) ** 2, axis=1) for mode in start.separate_modes]
    nearest = np.argmin(distances, axis=0).reshape(positions.shape[:2])
    if (nearest != nearest[0]).any(axis=0).mean() > 0.5:
        return []
    return [
        f"{num} separate modes carry weight and most chains never cross from one to another: "
        "take inference=bk.ParallelTempering(), whose chains cross where the likelihood is "
        "weakened. It needs a prior to draw from"
    ]


def found_in_chains(start: Start, record: Record, r_hat: float) -> list[str]:
    """Return what is wrong with chains at frozen tuning.

    Parameters
    ----------
    record : Record with all kept iterations
    r_hat : float
        Largest R-hat over all parameters.
    """
    found = []
    step_size = float(record.step_size[-1])
    means = record.acceptance.mean(axis=0)
    if step_size < _MIN_STEP_SIZE:
        found.append(
            f"the step size fell to {step_size:.1g}: the chains collapsed where the density is "
            "a spike without mass. Use a non-centred form, or inference=bk.NUTS()"
        )
    if means.mean() < _MIN_ACCEPTANCE:
        found.append(
            f"mean acceptance is {means.mean():.2f} (< {_MIN_ACCEPTANCE}): one step size does "
            "not suit the whole posterior. Use a non-centred form, or inference=bk.NUTS()"
        )
    stuck = int(np.sum(means < _STUCK * np.median(means)))
    if stuck:
        found.append(
            f"{stuck} of {len(means)} chains accept less than a third of what the median chain "
            "does: they are stuck where the density is curved otherwise than elsewhere"
        )
    if not r_hat <= _SLOW_RHAT and (start.exponent < _POOR_START or not start.proper):
        why = (
            f"importance weights to the power {start.exponent:.2f} only"
            if start.proper
            else "its maximum carries no mass"
        )
        found.append(
            f"no normal approximation fits the posterior ({why}) and the chains disagree, as "
            "in funnels and centred hierarchies: write the model in a non-centred form"
        )
    return found


def is_settled(r_hat: float) -> bool:
    """Return whether chains agree; an R-hat that is not finite does not."""
    return bool(r_hat <= MAX_RHAT)
