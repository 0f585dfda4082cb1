"""Ladders of temperatures, and what chains on them tell: evidence, rejections, round trips."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from bayeskit.inference.measure import TemperingStage

__all__ = ["bridge_evidence", "num_round_trips", "rejection_rates", "respaced", "rungs"]

# Batches of each chain from which the error of the evidence is found.
_NUM_BATCHES = 10
# A pair that never rejects still takes part in the spacing of the ladder.
_MIN_REJECTION = 1e-3


def _checked_ladder(ladder: Any) -> Any:
    if isinstance(ladder, jax.core.Tracer):
        return ladder
    ladder = np.asarray(ladder)
    rises = ladder.ndim == 1 and len(ladder) >= 2 and np.all(np.diff(ladder) > 0)
    if not rises or ladder[0] < 0 or ladder[-1] != 1:
        raise ValueError(
            f"ladder must be at least two inverse temperatures that increase from 0 or more "
            f"and end at 1, got {ladder.tolist()}"
        )
    return ladder


def rungs(ladder: Any, tuning: Any = None) -> TemperingStage:
    """Return the stages of a ladder, for chains on a tempered path that run side by side.

    Parameters
    ----------
    ladder : (num,) array
        Increasing inverse temperatures that end at 1.
    tuning : pytree with leading axis num, optional
        Parameters of the kernel on each rung.

    Returns
    -------
    TemperingStage
        Its leaves have a leading axis of rungs.

    Raises
    ------
    ValueError
        If the ladder has fewer than two rungs, does not increase or does not end at 1.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> stages = bi.rungs([0.0, 0.1, 0.4, 1.0])
    >>> stages.number.tolist(), stages.current.tolist()
    ([0, 1, 2, 3], [0.0, 0.1, 0.4, 1.0])
    """
    ladder = _checked_ladder(ladder)
    num = len(ladder)
    unknown = np.full(num, np.nan)
    return TemperingStage(
        np.arange(num, dtype=np.int32),
        ladder,
        ladder,
        tuning,
        repeats=np.ones(num, np.int32),
        acceptance=unknown,
        correlation=unknown,
    )


def bridge_evidence(log_likelihood: np.ndarray, ladder: np.ndarray) -> tuple[float, float]:
    r"""Return the log evidence and its standard error, from the draws on all rungs (law L10).

    Neighbouring rungs i and j are bridged by their geometric mean,

    .. math:: \frac{Z_j}{Z_i} = \frac{E_i[L^{(\lambda_j - \lambda_i)/2}]}
              {E_j[L^{-(\lambda_j - \lambda_i)/2}]},

    and the ratios multiplied from the prior to the posterior. Other than with the one-sided
    stepping stone, both averages always have a finite variance.

    Parameters
    ----------
    log_likelihood : (chain, draw, rung) array
    ladder : (rung,) array
        Inverse temperatures from 0 to 1.

    Notes
    -----
    The error comes from the means of ten batches of each chain, all rungs together, so that it
    counts what successive draws and neighbouring rungs share. It cannot see a mode that no
    chain found.

    References
    ----------
    Meng & Wong (1996), *Simulating ratios of normalizing constants via a simple identity*;
    Xie et al. (2011), *Improving marginal likelihood estimation*.
    """
    values = np.where(np.isnan(log_likelihood), -np.inf, log_likelihood).astype(float)
    half = 0.5 * np.diff(np.asarray(ladder, float))
    up, down = half * values[..., :-1], -half * values[..., 1:]
    num = values.shape[0] * values.shape[1]
    log_up, log_down = (logsumexp(x, axis=(0, 1)) - np.log(num) for x in (up, down))
    # To first order the error is the mean of this over chains and draws.
    influence = np.sum(np.exp(up - log_up) - np.exp(down - log_down), axis=-1)
    batches = [np.mean(b, axis=1) for b in np.array_split(influence, _NUM_BATCHES, axis=1)]
    means = np.stack([b for b in batches if np.all(np.isfinite(b))]).ravel()
    return float(np.sum(log_up - log_down)), float(np.std(means, ddof=1) / np.sqrt(means.size))


def rejection_rates(log_likelihood: np.ndarray, ladder: np.ndarray) -> np.ndarray:
    """Return the mean rejection probability of each exchange (rung - 1,), as its draws tell.

    Parameters
    ----------
    log_likelihood : (chain, draw, rung) array
    ladder : (rung,) array
    """
    with np.errstate(invalid="ignore"):
        log_ratio = -np.diff(ladder) * np.diff(log_likelihood, axis=-1)
    acceptance = np.where(np.isnan(log_ratio), 0.0, np.exp(np.minimum(log_ratio, 0.0)))
    return 1.0 - acceptance.mean(axis=(0, 1))


def respaced(ladder: np.ndarray, rejections: np.ndarray) -> np.ndarray:
    """Return as many rungs, spaced so that all exchanges reject alike.

    The sum of the rejections up to a temperature, the communication barrier, hardly depends on
    the ladder that it was found with, and is divided into equal parts.

    References
    ----------
    Syed et al. (2022), *Non-reversible parallel tempering*, section 5.
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(rejections, _MIN_REJECTION))])
    inner = np.interp(np.linspace(0.0, barrier[-1], len(ladder)), barrier, ladder)[1:-1]
    return np.concatenate([ladder[:1], inner, ladder[-1:]])


def num_round_trips(origin: np.ndarray) -> int:
    """Return how often a state went from the first rung to the last and back.

    Parameters
    ----------
    origin : (chain, draw, rung) int array
        Which state is on which rung, as :class:`~bayeskit.inference.Replicas` notes it.
    """
    total = 0
    for chain in origin:
        # For each state, whether it last met the first rung (0), the last (1) or none (-1).
        last = np.full(chain.shape[1], -1)
        for first, final in zip(chain[:, 0], chain[:, -1], strict=True):
            total += last[first] == 1
            last[first] = 0
            last[final] = 1 if last[final] == 0 else last[final]
    return int(total)
