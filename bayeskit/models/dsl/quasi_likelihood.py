r"""A likelihood made of moments: how far they are from zero, in units of their spread.

.. math:: \log L(\theta) = -\frac n2\, g(\theta)^\top \Omega^{-1} g(\theta), \qquad
    g(\theta) = \frac1n \sum_i \tilde m_i(\theta) .

With the displacement :math:`r(\theta) = J^{-1} g(\theta)` and the covariance V of the estimate
this is :math:`-\frac12 r^\top V^{-1} r`. Several repeats of the random split enter by the mean
of their moments, moved so that its root is the combined estimate, and by the combined V. So for
linear moments it is exactly the density of :math:`N(\hat\theta, V)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.dsl.links import LINKS
from bayeskit.models.dsl.moments import Rows, jacobian, total_moment
from bayeskit.models.dsl.result import DSLResult

__all__ = ["Displacement", "QuasiLikelihood", "displacement_of"]


class _Arrays(NamedTuple):
    """What the moments are computed from, for models that are not linear."""

    rows: Rows
    weight: Any
    bread: Any
    shift: Any


@dataclass(frozen=True, eq=False)
class Displacement:
    r"""The function :math:`r(\theta)`, as a structure and arrays.

    Parameters
    ----------
    link_name : str
    centre : (parameters) array
        The combined estimate, at which it is 0.
    arrays : NamedTuple or None
        None for linear moments, whose displacement is :math:`\hat\theta - \theta`.
    """

    link_name: str
    centre: Any
    arrays: Any = None

    def __call__(self, theta: Any) -> jax.Array:
        """Return the displacement (parameters)."""
        if self.arrays is None:
            return self.centre - theta
        rows, weight, bread, shift = self.arrays
        value = total_moment(LINKS[self.link_name], theta[None], rows, weight[None])[0]
        return bread @ (value - shift)


jax.tree_util.register_dataclass(
    Displacement, data_fields=["centre", "arrays"], meta_fields=["link_name"]
)


def displacement_of(result: DSLResult) -> Displacement:
    """Return the displacement of a fit."""
    data, found = result.data, result.splits
    centre = found.coef
    if data.link.is_linear:
        return Displacement("linear", centre)
    n, num = data.num_units, len(found.numbers)
    power = found.power.mean(axis=1)
    weights = [data.weights(p)[0] / (n * num) for p in power]
    ahead = [w[:n] for w in weights]
    if data.predicted.x.shape[0] == 1:
        # Moments are linear in the outcome: repeats that share x are one row.
        parts, ahead = [_merged(data.predicted, found.numbers, np.stack(ahead))], [sum(ahead)]
    else:
        parts = [data.predicted.split(int(s)) for s in found.numbers]
    columns = [*parts, data.true]
    x, y = (np.concatenate([getattr(r, name)[0] for r in columns])[None] for name in "xy")
    weight = np.concatenate([*ahead, np.sum([w[n:] for w in weights], axis=0)])
    rows = Rows(x, x, y)
    shift = total_moment(data.link, centre[None], rows, weight[None])[0]
    inverse = np.linalg.inv(jacobian(data.link, centre[None], rows, weight[None])[0])
    return Displacement(data.link.name, centre, _Arrays(rows, weight, inverse, shift))


def _merged(predicted: Rows, numbers: np.ndarray, weight: np.ndarray) -> Rows:
    """Return rows whose outcome is the weighted mean over repeats."""
    y = predicted.y if len(predicted.y) == 1 else predicted.y[numbers]
    total = weight.sum(axis=0)
    safe = np.where(total != 0, total, 1.0)
    mean = np.sum(weight[..., None] * y, axis=0) / safe[:, None]
    return predicted._replace(y=mean[None])


@dataclass(frozen=True, eq=False)
class QuasiLikelihood:
    r"""The log quasi-likelihood of one fit, for models of one's own.

    Call it in a NumPyro model as ``numpyro.factor("labels", likelihood(theta))``, or in the
    log density of a :class:`~bayeskit.Target`.

    Parameters
    ----------
    displacement : Displacement
    precision : (parameters, parameters) array
        Inverse of the covariance of the estimate.
    terms : tuple of str
    """

    displacement: Displacement
    precision: Any
    terms: tuple[str, ...]

    def __call__(self, theta: Any) -> jax.Array:
        """Return the log quasi-likelihood of coefficients (parameters)."""
        away = self.displacement(jnp.asarray(theta))
        return -0.5 * away @ self.precision @ away

    @classmethod
    def of(cls, result: DSLResult) -> QuasiLikelihood:
        """Return that of a result."""
        return cls(displacement_of(result), np.linalg.inv(result.vcov), result.terms)
