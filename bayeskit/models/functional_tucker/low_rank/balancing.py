r"""Scales of functions and core, balanced in one step instead of many epochs.

The product does not change when a function is multiplied by c and what it is multiplied with is
divided by c, so that the likelihood says nothing of c, and coordinate ascent finds the best one
in ever smaller steps. For parts with :math:`n_1, n_2` values and
:math:`a_i = E[u_i^\top K_i^{-1} u_i]` the divergences from the priors are least at

.. math:: a_1 c^4 - (n_1 - n_2)\, c^2 - a_2 = 0 .

With :math:`K^{-1} = S^{-1} - \Lambda` and :math:`S^{-1} m = \eta` the forms a need nothing but
the sites and the law at each coordinate.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.models.functional_tucker.low_rank.beliefs import Beliefs
from bayeskit.models.functional_tucker.low_rank.chains import ModePosterior, ModeSites
from bayeskit.models.functional_tucker.low_rank.contractions import unpack
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.layout import Layout

__all__ = ["balanced"]


def balanced(
    layout: Layout, core_precision: Any, data: TensorData, beliefs: Beliefs
) -> Beliefs:
    """Return the beliefs with the best scales for the same products.

    The sites stay as they are: they belong to the laws before, and the next update of a mode
    makes its own.
    """
    sizes = [1.0 + jnp.sum(jnp.asarray(grid.gaps) > 0) for grid in data.grids]
    forms = [
        size + _excess(law, sites)
        for size, law, sites in zip(sizes, beliefs.modes, beliefs.sites, strict=True)
    ]
    if layout.has_core:
        return _with_core(layout, core_precision, beliefs, forms, sizes)
    scales = [jnp.ones(layout.ranks[0]) for _ in layout.ranks]
    for k in range(1, layout.num_modes):
        c = _best(forms[0] * scales[0] ** 2, sizes[0], forms[k] * scales[k] ** 2, sizes[k])
        scales[0], scales[k] = scales[0] * c, scales[k] / c
    modes = tuple(_scaled(law, c) for law, c in zip(beliefs.modes, scales, strict=True))
    return beliefs._replace(modes=modes)


def _with_core(layout, core_precision, beliefs, forms, sizes):
    core = beliefs.core
    square = core_precision * (
        core.mean**2 + jnp.diagonal(core.covariance).reshape(layout.ranks)
    )
    inverse = jnp.ones(layout.ranks)
    modes = []
    for k, rank in enumerate(layout.ranks):
        others = tuple(j for j in range(layout.num_modes) if j != k)
        c = _best(forms[k], sizes[k], jnp.sum(square, axis=others), layout.core_size / rank)
        along = (1 / c).reshape([-1 if j == k else 1 for j in range(layout.num_modes)])
        square, inverse = square * along**2, inverse * along
        modes.append(_scaled(beliefs.modes[k], c))
    factor = core.precision_factor / inverse.reshape(-1)[:, None]
    scaled = core._replace(mean=core.mean * inverse, precision_factor=factor)
    return beliefs._replace(modes=tuple(modes), core=scaled)


def _excess(law: ModePosterior, sites: ModeSites) -> jax.Array:
    """Return E[u' K^-1 u] less the number of values, for each function (R,)."""
    precision = unpack(sites.precision, law.mean.shape[1])
    second = law.covariance + law.mean[:, :, None] * law.mean[:, None, :]
    seen = jnp.einsum("nrs,nsr->r", precision, second)
    return jnp.sum(sites.shift * law.mean, axis=0) - seen


def _best(form: Any, size: Any, other_form: Any, other_size: Any) -> jax.Array:
    """Return the c that multiplies the first part."""
    difference = size - other_size
    root = jnp.sqrt(difference**2 + 4.0 * form * other_form)
    return jnp.sqrt((difference + root) / (2.0 * form))


def _scaled(law: ModePosterior, c: jax.Array) -> ModePosterior:
    covariance = law.covariance * c[:, None] * c[None, :]
    return law._replace(mean=law.mean * c, covariance=covariance)
