r"""Two-stage least squares: as many instruments as columns.

.. math:: \Pi = \Big(\sum_r \omega_r z_r z_r^\top\Big)^{-1} \sum_r \omega_r z_r x_r^\top, \qquad
    m(\theta) = \Pi^\top z\,(y - x^\top \theta) .
"""

from __future__ import annotations

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.moments import Rows

__all__ = ["first_stage"]


def first_stage(rows: Rows, weight: np.ndarray) -> Rows:
    """Return rows whose instruments are those fitted to the columns of x.

    Parameters
    ----------
    rows : Rows
        With at least as many instruments as columns.
    weight : (splits, rows) array

    Raises
    ------
    InvalidDataError
        If instruments are collinear.

    References
    ----------
    Wooldridge (2010), *Econometric analysis of cross section and panel data*, section 5.2.
    """
    transposed = (weight[..., None] * rows.z).transpose(0, 2, 1)
    try:
        projection = np.linalg.solve(transposed @ rows.z, transposed @ rows.x)
    except np.linalg.LinAlgError as error:
        raise InvalidDataError(
            "the instruments are collinear: drop those that others determine"
        ) from error
    return rows._replace(z=rows.z @ projection)
