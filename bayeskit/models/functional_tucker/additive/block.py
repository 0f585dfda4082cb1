"""The joint Gaussian block as a whole: posterior, moments and draws of rows.

The functions here take arrays of rows as they are, pad them, and call one compiled program
each. Those that they call are pure functions of padded arrays, for programs of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.functional_tucker.additive.centring import centred_design
from bayeskit.models.functional_tucker.additive.design import (
    AdditiveDesign,
    function_design,
    new_design,
)
from bayeskit.models.functional_tucker.additive.evidence import Reduced, reduce
from bayeskit.models.functional_tucker.additive.prediction import (
    draw_rows,
    moments_of_rows,
    normals_needed,
    rows_given_data,
)

__all__ = [
    "AdditivePosterior",
    "additive_posterior",
    "centred_function_moments",
    "function_moments",
    "predict_rows",
    "row_moments",
    "sample_rows",
]


@dataclass(frozen=True, eq=False)
class AdditivePosterior:
    """All functions of the block, given data.

    Parameters
    ----------
    design : AdditiveDesign
    kernels : tuple of kernels with numbers, one for each term
    y, precision : (rows) arrays, padded
    reduced : Reduced
    """

    design: AdditiveDesign
    kernels: tuple[Any, ...]
    y: np.ndarray
    precision: np.ndarray
    reduced: Reduced

    @property
    def log_evidence(self) -> float:
        """Log p(y), of the rows whose precision is not zero."""
        return float(self.reduced.log_evidence)


_reduce = quick_jit(reduce, static_argnames="plan")


@quick_jit(static_argnames="plan")
def _moments(plan, kernels, arrays, y, precision, reduced, new, share=None):
    rows = rows_given_data(plan, kernels, arrays, y, precision, reduced, new)
    return moments_of_rows(rows, reduced, new, share)


@quick_jit(static_argnames="plan")
def _draws(plan, kernels, arrays, y, precision, reduced, new, normals):
    rows = rows_given_data(plan, kernels, arrays, y, precision, reduced, new, joint=True)
    return jax.lax.map(lambda z: draw_rows(rows, reduced, new, z), normals)


def additive_posterior(
    design: AdditiveDesign,
    y: Any,
    precision: Any,
    kernels: Any = None,
    reduced: Reduced | None = None,
) -> AdditivePosterior:
    """Return the posterior of all functions.

    Parameters
    ----------
    design : AdditiveDesign
    y, precision : (rows) arrays
        A precision of zero is a row without data.
    kernels : tuple of kernels with numbers, one for each term
        Default: those of the terms.
    reduced : Reduced, optional
        Where it is known already.
    """
    kernels = tuple(term.kernel for term in design.terms) if kernels is None else kernels
    y, precision = design.pad(y), design.pad(precision)
    if reduced is None:
        reduced = _reduce(design.plan, kernels, design.arrays, y, precision)
    # Arrays of NumPy stay in double precision wherever they are loaded.
    reduced = jax.tree.map(np.asarray, reduced)
    return AdditivePosterior(design, kernels, y, precision, reduced)


def predict_rows(
    posterior: AdditivePosterior, table: Any, context: str = "given"
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (new rows) of t without noise, each row by itself.

    Parameters
    ----------
    posterior : AdditivePosterior
    table : (new rows, modes) array
        Coordinates and groups may be unseen.
    context : {"given", "training"}
        As for :func:`~bayeskit.models.functional_tucker.additive.new_design`.
    """
    table = np.asarray(table, float)
    return _moments_at(posterior, new_design(posterior.design, table, context), len(table))


def function_moments(
    posterior: AdditivePosterior, term: int, grid: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances of the function of one term, at values of its column.

    Parameters
    ----------
    posterior : AdditivePosterior
    term : int
        Position of a main effect or of an effect of group means.
    grid : (points) array
    """
    grid = np.asarray(grid, float)
    return _moments_at(posterior, function_design(posterior.design, term, grid), len(grid))


def centred_function_moments(
    posterior: AdditivePosterior, term: int, grid: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances of a term's function less its mean over the observed rows.

    The level that the function shares with the constant and with other terms is uncertain;
    differences between its values are not, by this.

    Parameters
    ----------
    posterior, term, grid
        As for :func:`function_moments`.
    """
    grid = np.asarray(grid, float)
    new, share = centred_design(posterior.design, term, grid, posterior.precision > 0)
    return _moments_at(posterior, new, len(grid), share)


def _moments_at(posterior: AdditivePosterior, new: Any, num: int, share: Any = None) -> tuple:
    design = posterior.design
    data = design.arrays, posterior.y, posterior.precision, posterior.reduced
    moments = _moments(design.plan, posterior.kernels, *data, new, share)
    return tuple(np.asarray(part)[:num] for part in moments)


def row_moments(posterior: AdditivePosterior) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (rows) of t without noise at the training rows."""
    return predict_rows(posterior, posterior.design.table)


def sample_rows(
    posterior: AdditivePosterior,
    table: Any,
    num_draws: int,
    key: Any = None,
    *,
    context: str = "given",
    normals: Any = None,
) -> np.ndarray:
    """Return exact joint draws (draws, new rows) of t without noise.

    Parameters
    ----------
    posterior : AdditivePosterior
    table : (new rows, modes) array
    num_draws : int
    key : key
    context
        As for :func:`predict_rows`.
    normals : pytree, optional
        Standard normal numbers in place of drawn ones: the draws are linear in them.
    """
    design = posterior.design
    new = new_design(design, np.asarray(table, float), context, joint=True)
    data = design.arrays, posterior.y, posterior.precision, posterior.reduced
    if normals is None:
        normals = _normals(normal_shapes(posterior, new), num_draws, key)
    draws = _draws(design.plan, posterior.kernels, *data, new, normals)
    return np.asarray(draws)[:, : len(table)]


def normal_shapes(posterior: AdditivePosterior, new: Any) -> dict[str, Any]:
    """Return the shapes of the standard normal numbers that one draw takes."""
    design = posterior.design
    data = design.arrays, posterior.y, posterior.precision, posterior.reduced
    shapes: dict[str, Any] = {}

    def find(arrays: Any, y: Any, precision: Any, reduced: Any, new: Any) -> int:
        rows = rows_given_data(
            design.plan, posterior.kernels, arrays, y, precision, reduced, new, joint=True
        )
        shapes.update(normals_needed(rows))
        return 0

    jax.eval_shape(find, *data, new)
    return shapes


def _normals(shapes: Any, num_draws: int, key: Any) -> Any:
    is_shape = lambda value: isinstance(value, tuple) and all(isinstance(n, int) for n in value)
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda v: is_shape(v) and v != ())
    keys = random.split(key, len(leaves))
    drawn = [random.normal(k, (num_draws, *s)) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)
