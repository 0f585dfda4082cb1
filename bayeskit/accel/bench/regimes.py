"""Log-weights to resample, and what numbers of offspring they call for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["REGIMES", "judge_offspring", "log_weights"]

#: From weights that say nothing to weights that say all.
REGIMES = ("equal", "sd 1", "sd 4", "one holds all", "half dead")

# A right answer fails with at most this chance, all particles of a case together.
_FALSE_ALARM = 1e-9
# What is allowed beyond the largest |o - N W| of a scheme: the reference is in float64, and
# fixed-point weights lose 4e-5 offspring at ten million particles.
_SLACK = 1e-3


def log_weights(regime: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return log-weights of a regime; the same ones in every run.

    Parameters
    ----------
    regime : str
        One of :data:`REGIMES`. ``"sd 4"`` names the standard deviation of the logarithms;
        where half are dead, the others have ``"sd 1"``, and the last fiftieth has no survivor.
    shape : tuple of int
        The last axis is that of the particles.
    dtype : float dtype

    Returns
    -------
    shape array
    """
    rng = np.random.default_rng(0)
    num = shape[-1]
    if regime == "equal":
        return np.zeros(shape, dtype)
    if regime == "one holds all":
        values = np.full(shape, -50.0, dtype)
        values[..., num // 3] = 0.0
        return values
    values = (4.0 if regime == "sd 4" else 1.0) * rng.normal(size=shape)
    if regime == "half dead":
        dead = rng.random(shape) < 0.5
        dead[..., num - num // 50 :] = True
        dead[..., 0] = False
        values[dead] = -np.inf
    return values.astype(dtype)


def judge_offspring(index: Any, log_weights: np.ndarray, largest: float | None) -> dict:
    r"""Compare numbers of offspring with what the weights call for, in double precision.

    Parameters
    ----------
    index : (..., num_particles) integer array
        The ancestors that a scheme returned.
    log_weights : (..., num_particles) array
    largest : float or None
        The scheme promises :math:`|o_i - n W_i|` below this. None for schemes that draw
        independently: then the bound is that of Bernstein's inequality, at a false-alarm rate
        of 1e-9 for all particles together.

    Returns
    -------
    dict
        ``error``, the largest :math:`|o_i - n W_i|`; ``offspring_of_dead``, the number of
        offspring of particles of weight zero; ``wrong``, whether a promise is broken.
    """
    num = log_weights.shape[-1]
    index = np.asarray(index)
    if index.shape != log_weights.shape or index.min() < 0 or index.max() >= num:
        return {"error": math.inf, "offspring_of_dead": None, "wrong": True}
    index, rows = index.reshape(-1, num), log_weights.reshape(-1, num).astype(np.float64)
    error, of_dead, wrong = 0.0, 0, False
    level = math.log(2 * rows.size / _FALSE_ALARM)
    for row, chosen in zip(rows, index, strict=True):
        weights = np.exp(row - row.max())
        expected = weights * (num / weights.sum())
        offspring = np.bincount(chosen, minlength=num)
        off = np.abs(offspring - expected)
        of_dead += int(offspring[np.isneginf(row)].sum())
        error = max(error, float(off.max()))
        # P(|o - m| >= b) <= 2 exp(-level) for a sum of independent draws of mean m.
        bernstein = level / 3 + np.sqrt(level**2 / 9 + 2 * level * expected)
        bound = bernstein if largest is None else largest + _SLACK
        wrong = wrong or bool(np.any(off > bound))
    return {"error": error, "offspring_of_dead": of_dead, "wrong": wrong or of_dead > 0}
