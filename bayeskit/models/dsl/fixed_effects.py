r"""One- and two-way fixed effects of a linear model, taken out exactly.

Rows weigh :math:`\omega_r`, some of them negative. With the dummies D of all effects the
projection :math:`\tilde v = v - D (D^\top \Omega D)^{-1} D^\top \Omega v` makes the moments of
x free of the effects, for balanced and unbalanced panels alike: the regression of
:math:`\tilde y` on :math:`\tilde x` has the coefficients and the sandwich of the regression
with all dummies. Row mean plus column mean minus grand mean does so in balanced panels only.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import splu

from bayeskit.models.dsl.moments import Rows

__all__ = ["absorb", "singletons"]

# Weights of a group that sum to less than this share of their sizes determine no effect.
_NO_WEIGHT = 1e-12


def absorb(rows: Rows, weight: np.ndarray, effects: tuple[np.ndarray, ...]) -> Rows:
    """Return rows without the effects.

    Parameters
    ----------
    rows : Rows
        Of one split: leading axes are 1.
    weight : (rows) array
        Of any sign.
    effects : tuple of one or two (rows) int arrays
        The group of each row.

    Notes
    -----
    Cost: one sparse factorisation of as many unknowns as there are groups.
    """
    dummies = _dummies(effects, weight != 0)
    parts = [rows.x[0], rows.y[0]] if rows.z is rows.x else [rows.x[0], rows.y[0], rows.z[0]]
    columns = np.concatenate(parts, axis=1)
    normal = (dummies.T @ dummies.multiply(weight[:, None])).tocsc()
    sizes = np.asarray((dummies.T @ dummies.multiply(np.abs(weight)[:, None])).diagonal())
    empty = np.abs(normal.diagonal()) <= _NO_WEIGHT * np.maximum(sizes, 1.0)
    normal = normal + sparse.diags_array(np.where(empty, 1.0, 0.0), format="csc")
    right = dummies.T @ (weight[:, None] * columns)
    right[empty] = 0.0
    free = columns - dummies @ splu(normal.tocsc()).solve(right)
    p, outcomes = rows.x.shape[-1], rows.y.shape[-1]
    x, y = free[None, :, :p], free[None, :, p : p + outcomes]
    return Rows(x, x if rows.z is rows.x else free[None, :, p + outcomes :], y)


def _dummies(effects: tuple[np.ndarray, ...], weighs: np.ndarray) -> sparse.csr_array:
    """Return dummies of full rank on the rows that weigh: one less for each component."""
    num_rows = len(effects[0])
    index = np.arange(num_rows)
    blocks = []
    for codes in effects:
        num = int(codes.max()) + 1
        blocks.append(sparse.csr_array((np.ones(num_rows), (index, codes)), (num_rows, num)))
    if len(blocks) == 1:
        return blocks[0]
    first, second = effects
    sizes = [block.shape[1] for block in blocks]
    edges = (np.ones(weighs.sum()), (first[weighs], sizes[0] + second[weighs]))
    graph = sparse.csr_array(edges, (sum(sizes), sum(sizes)))
    component = csgraph.connected_components(graph, directed=False)[1][sizes[0] :]
    # In each set of groups that rows connect, the first of the second way is the reference.
    kept = np.ones(sizes[1], bool)
    kept[np.unique(component, return_index=True)[1]] = False
    return sparse.hstack([blocks[0], blocks[1][:, kept]], format="csr")


def singletons(effects: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return which rows are the only one of a group, also once others of them are gone."""
    kept = np.ones(len(effects[0]), bool)
    while True:
        alone = np.zeros(len(kept), bool)
        for codes in effects:
            counts = np.bincount(codes[kept], minlength=int(codes.max()) + 1)
            alone |= kept & (counts[codes] == 1)
        if not alone.any():
            return ~kept
        kept &= ~alone
