"""Say when and where particles lost all their weight, or got an infinite one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeskit.errors import InvalidWeightsError, ParticleCollapseError
from bayeskit.inference.population import Population

__all__ = ["check_collapse", "check_infinite", "infinite_weight"]


def check_collapse(
    population: Population, info: Mapping[str, Any], observations: Any = None
) -> None:
    """Raise if all particles of a filter had weight zero at some time.

    Inside a compiled program nothing can be raised: the evidence becomes zero, weights stay
    equal, and no NaN arises. This names the first time at which that happened.

    Parameters
    ----------
    population : Population
        What the filter returned.
    info : dict of arrays
        Of the same run, from ``run(..., with_info=True)``.
    observations : array (num_steps, ...), optional
        To print the observation at that time.

    Raises
    ------
    ParticleCollapseError

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> model = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: jnp.where(t == 3, -jnp.inf, 0.0),
    ...     num_steps=5,
    ... )
    >>> population, info = bi.run(bi.particle_filter(model, 10), key=0, with_info=True)
    >>> bi.check_collapse(population, info)
    Traceback (most recent call last):
    bayeskit.errors.ParticleCollapseError: all particles have weight zero at time 3: ...
    """
    if np.all(np.asarray(population.log_evidence) > -np.inf):
        return
    time = int(np.argmin(np.isfinite(_by_time(info, "log_evidence_increment"))))
    seen = "" if observations is None else f" (observation {np.asarray(observations)[time]})"
    num_nan = int(_by_time(info, "num_nan")[time])
    why = f", {num_nan} of them because their potential is NaN" if num_nan else ""
    raise ParticleCollapseError(
        f"all particles have weight zero at time {time}{seen}{why}: take more particles or a "
        "proposal that looks at the observation, or check the observation and the support of "
        "the likelihood"
    )


def check_infinite(population: Population, info: Mapping[str, Any] | None = None) -> None:
    """Raise if a weight was +inf, which no density gives: the evidence is then +inf.

    Parameters
    ----------
    population : Population
    info : dict of arrays, optional
        Of the same run, to name the first time or stage at which it happened.

    Raises
    ------
    InvalidWeightsError
    """
    if not np.any(np.isposinf(np.asarray(population.log_evidence))):
        return
    where = ""
    increments = [k for k in info or {} if k.startswith("log_evidence_increment")]
    if info is not None and increments and np.ndim(population.log_evidence) == 0:
        infinite = np.isposinf(_by_time(info, "log_evidence_increment"))
        where = f" at step {int(np.argmax(infinite))}" if infinite.any() else ""
    raise infinite_weight(where)


def infinite_weight(where: str) -> InvalidWeightsError:
    """Return the error for a weight of +inf; ``where`` says at which time or stage."""
    return InvalidWeightsError(
        f"a log-likelihood or log potential was +inf{where}, so the log evidence is +inf: a "
        "density is finite almost everywhere. Look for a division by zero or a scale of zero, "
        "and return -inf where the likelihood is zero"
    )


def _by_time(info: Mapping[str, Any], name: str) -> np.ndarray:
    """Return what the first weighing and the rounds after it say, in one row."""
    entries = [value for key, value in info.items() if key.startswith(name)]
    return np.concatenate([np.ravel(np.asarray(value)) for value in entries])
