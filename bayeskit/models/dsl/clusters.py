"""Sums over clusters and strata."""

from __future__ import annotations

import numpy as np
from scipy import sparse

__all__ = ["cluster_products", "codes_of", "group_sums"]


def codes_of(labels: object) -> tuple[np.ndarray, np.ndarray]:
    """Return whole numbers 0, 1, ... that stand for labels, and the labels in their order."""
    levels, codes = np.unique(np.asarray(labels), return_inverse=True)
    return codes.ravel(), levels


def group_sums(values: np.ndarray, codes: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the sums (groups, columns) of rows (rows, columns) by group, in one pass."""
    rows = np.arange(len(codes))
    member = sparse.csr_array((np.ones(len(codes)), (codes, rows)), (num_groups, len(codes)))
    return member @ values


def cluster_products(
    first: np.ndarray, second: np.ndarray, clusters: tuple[np.ndarray, ...]
) -> np.ndarray:
    r"""Return :math:`\sum_c a_c b_c^\top` of sums over clusters.

    Without clusters each row is its own. Several ways of clustering are joined by inclusion
    and exclusion.

    Parameters
    ----------
    first, second : (rows, parameters) array
    clusters : tuple of (rows) int arrays

    References
    ----------
    Cameron, Gelbach & Miller (2011), *Robust inference with multiway clustering*.
    """
    if not clusters:
        return first.T @ second
    total = np.zeros((first.shape[1], second.shape[1]))
    for subset in range(1, 2 ** len(clusters)):
        chosen = [c for i, c in enumerate(clusters) if subset >> i & 1]
        codes = chosen[0] if len(chosen) == 1 else _joint_codes(chosen)
        num = int(codes.max()) + 1
        a = group_sums(first, codes, num)
        b = a if first is second else group_sums(second, codes, num)
        total += (1 if len(chosen) % 2 else -1) * (a.T @ b)
    return total


def _joint_codes(several: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.stack(several, axis=1), axis=0, return_inverse=True)[1].ravel()
