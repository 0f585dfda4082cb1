"""A model with numbers, and the independent laws of its parts."""

from __future__ import annotations

from typing import Any, NamedTuple

from bayeskit.models.functional_tucker.low_rank.chains import ModePosterior, ModeSites
from bayeskit.models.functional_tucker.low_rank.contractions import (
    CoreMoments,
    Moments,
    core_moments,
    moments_of,
)
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior

__all__ = ["Beliefs", "Model"]


class Model(NamedTuple):
    """Everything that is given while the laws of the parts are updated.

    Parameters
    ----------
    kernels : tuple of tuples of kernels with numbers
        For each mode, one for each function.
    core_precision : float
        Prior precision of the entries of the core.
    noise : NoisePrior
    """

    kernels: tuple[tuple[Any, ...], ...]
    core_precision: Any
    noise: NoisePrior


class Beliefs(NamedTuple):
    """The laws of the parts.

    Parameters
    ----------
    modes : tuple of ModePosterior
    sites : tuple of ModeSites
        Those that each mode's law was made of.
    core : CorePosterior, or None where the core is diagonal
    precision : Gamma, or a float where the noise is known
    weights : Gamma of (rows,) arrays, or None for normal noise
    """

    modes: tuple[ModePosterior, ...]
    sites: tuple[ModeSites, ...]
    core: Any
    precision: Any
    weights: Any

    @property
    def factors(self) -> tuple[Moments, ...]:
        """The moments of the functions of each mode on its grid."""
        return tuple(moments_of(mode.mean, mode.covariance) for mode in self.modes)

    @property
    def core_moments(self) -> CoreMoments | None:
        """The moments of the core."""
        return None if self.core is None else core_moments(self.core.mean, self.core.covariance)

    @property
    def noise_precision(self) -> Any:
        """The expected precision of the noise."""
        return self.precision.mean if isinstance(self.precision, Gamma) else self.precision

    def row_precision(self, weight: Any) -> Any:
        """Return the expected precision of rows, given weights that are zero without data."""
        each = 1.0 if self.weights is None else self.weights.mean
        return self.noise_precision * weight * each
