r"""Influence of each unit on the estimate, and the sandwich variance made of it.

.. math:: V = J^{-1} \Omega J^{-\top} / n = \frac{1}{n^2} \sum_c \psi_c \psi_c^\top, \qquad
    \psi_c = J^{-1} \sum_{i \in c} \tilde m_i .

No factor for small samples is applied. Where labels were drawn in strata of fixed size, the
corrections vary within strata only: with :math:`d_i = m(D_i) - \lambda m(\hat D_i)` and its
mean over the labelled of the stratum,
:math:`\tilde m_i = \lambda m(\hat D_i) + \bar d_h + (R_i/\pi_i)(d_i - \bar d_h)`, which has
the same sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.clusters import group_sums
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.moments import Rows, jacobian, row_moments

__all__ = ["UnitMoments", "bread", "unit_moments"]


class UnitMoments(NamedTuple):
    """Moments of one split by unit.

    Parameters
    ----------
    predicted : (units, parameters) array
        With predictions in place of labels, not yet times lambda.
    true : (labelled, parameters) array
    corrections : (units, parameters) array
        What labels correct, over the probability of being labelled.
    robust : (units, parameters) array
        The doubly robust ones.
    """

    predicted: np.ndarray
    true: np.ndarray
    corrections: np.ndarray
    robust: np.ndarray


def unit_moments(data: MomentData, theta: np.ndarray, rows: Rows, power: float) -> UnitMoments:
    """Return the moments of one split by unit.

    Parameters
    ----------
    data : MomentData
    theta : (parameters) array
    rows : Rows
        The stacked rows of this split.
    power : float
    """
    moments = row_moments(data.link, theta[None], rows)[0]
    predicted, true = moments[: data.num_units], moments[data.num_units :]
    at = data.labeled
    difference = true - power * predicted[at]
    smooth = power * predicted
    if data.strata is not None and len(at):
        num = int(data.strata.max()) + 1
        counts = np.maximum(np.bincount(data.strata[at], minlength=num), 1)
        means = group_sums(difference, data.strata[at], num) / counts[:, None]
        smooth = smooth + means[data.strata]
        difference = difference - means[data.strata[at]]
    corrections = np.zeros_like(smooth)
    corrections[at] = difference / data.probability[at][:, None]
    return UnitMoments(predicted, true, corrections, smooth + corrections)


def bread(data: MomentData, theta: np.ndarray, rows: Rows, weight: np.ndarray) -> np.ndarray:
    """Return the inverse of the Jacobian of the mean moment of one split.

    Parameters
    ----------
    theta : (parameters) array
    rows : Rows
    weight : (stacked rows) array
    """
    mean_jacobian = jacobian(data.link, theta[None], rows, weight[None])[0] / data.num_units
    try:
        return np.linalg.inv(mean_jacobian)
    except np.linalg.LinAlgError as error:
        raise InvalidDataError(
            "the moments do not determine the coefficients, since their Jacobian is singular: "
            "label more units, or drop columns"
        ) from error
