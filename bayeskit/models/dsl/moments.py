r"""Moments of generalised linear models, and their Jacobian, on weighted rows.

With outcomes :math:`l = 1, \dots, L`, predictors :math:`\eta_l = x^\top \theta_l` and
instruments z, which are x itself where there are none,

.. math:: m(\theta) = z \,(y - \mu(\eta)), \qquad
    J(\theta) = -\frac{\partial}{\partial\theta} \frac1n \sum_r \omega_r m_r(\theta)
    = \frac1n \sum_r \omega_r\, \mu'(\eta_r) \, z_r x_r^\top .

Parameters come as one vector, outcome by outcome. Arrays have a leading axis of splits or
draws; where it is 1, all of them share the array.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeskit.models.dsl.links import Link

__all__ = ["Rows", "jacobian", "predictors", "row_moments", "total_moment"]


class Rows(NamedTuple):
    """Rows of a regression.

    Parameters
    ----------
    x : (splits or 1, rows, columns) array
    z : (splits or 1, rows, columns) array
        Instruments, as many as columns.
    y : (splits or 1, rows, outcomes) array
    """

    x: Any
    z: Any
    y: Any

    @property
    def num_parameters(self) -> int:
        """Number of columns times number of outcomes."""
        return self.x.shape[-1] * self.y.shape[-1]

    def split(self, number: int) -> Rows:
        """Return the rows of one split, with a leading axis of 1."""
        return Rows(*(a[number : number + 1] if a.shape[0] > 1 else a for a in self))


def predictors(theta: Any, x: Any, num_outcomes: int) -> Any:
    """Return the linear predictors (splits, rows, outcomes)."""
    by_outcome = theta.reshape(theta.shape[0], num_outcomes, -1)
    return x @ by_outcome.transpose(0, 2, 1)


def total_moment(link: Link, theta: Any, rows: Rows, weight: Any) -> Any:
    """Return the weighted sum of the moments (splits, parameters)."""
    residual = rows.y - link.mean(predictors(theta, rows.x, rows.y.shape[-1]))
    weighted = (weight[..., None] * residual).transpose(0, 2, 1)
    return (weighted @ rows.z).reshape(theta.shape)


def row_moments(link: Link, theta: Any, rows: Rows) -> Any:
    """Return the moments of all rows (splits, rows, parameters)."""
    residual = rows.y - link.mean(predictors(theta, rows.x, rows.y.shape[-1]))
    moments = residual[..., :, None] * rows.z[..., None, :]
    return moments.reshape(*moments.shape[:2], -1)


def jacobian(link: Link, theta: Any, rows: Rows, weight: Any) -> Any:
    """Return minus the derivative of :func:`total_moment` (splits, parameters, parameters)."""
    num_outcomes = rows.y.shape[-1]
    slope = link.slope(predictors(theta, rows.x, num_outcomes))
    xp = slope.__array_namespace__()
    transposed = rows.z.transpose(0, 2, 1)
    blocks = [
        [
            transposed @ ((weight * slope[..., l, k])[..., None] * rows.x)
            for k in range(num_outcomes)
        ]
        for l in range(num_outcomes)
    ]
    return xp.concat([xp.concat(line, axis=-1) for line in blocks], axis=-2)


def stacked(first: Any, second: Any) -> np.ndarray:
    """Return two arrays of rows one below the other, with as many splits as either has."""
    splits = max(len(first), len(second))
    parts = [np.broadcast_to(a, (splits, *a.shape[1:])) for a in (first, second)]
    return np.concatenate(parts, axis=1)
