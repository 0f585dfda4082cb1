"""The sum of terms beside the product, as one Gaussian part of a larger model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters
from bayeskit.models.functional_tucker.additive.design import AdditiveDesign, new_design
from bayeskit.models.functional_tucker.additive.evidence import reduce
from bayeskit.models.functional_tucker.additive.learning import free_parameters
from bayeskit.models.functional_tucker.additive.plan import Plan
from bayeskit.models.functional_tucker.additive.prediction import (
    draw_rows,
    moments_of_rows,
    normals_needed,
    rows_given_data,
)

__all__ = ["AdditivePart", "additive_part", "drawn_normals", "resized"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "training", "parameters"],
    meta_fields=["plan"],
)
@dataclass(frozen=True, eq=False)
class AdditivePart:
    """Terms bound to training rows, as a pytree. Without terms it is a constant alone.

    Parameters
    ----------
    plan : Plan
    arrays : Arrays
        Of the training rows.
    training : NewArrays
        The same rows as rows to be drawn.
    parameters : FreeParameters
        Of the kernels of the terms.
    """

    plan: Plan
    arrays: Any
    training: Any
    parameters: FreeParameters

    @property
    def num_padded(self) -> int:
        """Number of rows that padded arrays have."""
        return self.training.new_node.shape[0]

    def kernels(self, u: Any) -> tuple[Any, ...]:
        """Return the kernels of the terms at standard normal numbers u."""
        return self.parameters.fill(u).kernels

    def reduced(self, u: Any, target: jax.Array, precision: jax.Array) -> Any:
        """Return what is left of targets with precisions (rows,) once all is integrated out."""
        y, p = (resized(part, self.num_padded) for part in (target, precision))
        return reduce(self.plan, self.kernels(u), self.arrays, y, p)

    def log_evidence(self, u: Any, target: jax.Array, precision: jax.Array) -> jax.Array:
        """Return the log density of targets (rows,) with all functions integrated out."""
        return self.reduced(u, target, precision).log_evidence

    def rows(self, u: Any, target: Any, precision: Any, new: Any, joint: bool) -> tuple:
        """Return rows as functions of weights and residuals, and what these are given by."""
        y, p = (resized(part, self.num_padded) for part in (target, precision))
        kernels = self.kernels(u)
        reduced = reduce(self.plan, kernels, self.arrays, y, p)
        found = rows_given_data(self.plan, kernels, self.arrays, y, p, reduced, new, joint)
        return found, reduced

    def draw(self, key: Any, u: Any, target: Any, precision: Any, new: Any = None) -> jax.Array:
        """Return one joint draw of rows given targets: of the training rows, or of others.

        Parameters
        ----------
        key : key
        u : (num_free,) array
        target, precision : (rows,) arrays
        new : NewArrays, optional
            Made with ``joint=True``.
        """
        is_training = new is None
        new = self.training if is_training else new
        rows, reduced = self.rows(u, target, precision, new, joint=True)
        normals = drawn_normals(key, normals_needed(rows))
        found = draw_rows(rows, reduced, new, normals)
        return resized(found, target.shape[0]) if is_training else found

    def moments(
        self, u: Any, target: Any, precision: Any, new: Any, share: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return means and variances (new rows,) given targets; with shares, centred ones."""
        rows, reduced = self.rows(u, target, precision, new, joint=False)
        return moments_of_rows(rows, reduced, new, share)


def additive_part(
    design: AdditiveDesign, parameters: FreeParameters | None = None
) -> AdditivePart:
    """Return a design as a part of a model.

    Parameters
    ----------
    design : AdditiveDesign
    parameters : FreeParameters of Settings, optional
        Default: those with priors that follow from the data. The noise in them is not looked
        at.
    """
    if parameters is None:
        parameters = free_parameters(design, 1.0)
    training = new_design(design, design.table, joint=True)
    return AdditivePart(design.plan, design.arrays, training, parameters)


def drawn_normals(key: Any, shapes: Any) -> Any:
    """Return standard normal numbers in the structure of a pytree of shapes."""
    is_shape = lambda value: isinstance(value, tuple) and all(isinstance(n, int) for n in value)
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda v: is_shape(v) and v != ())
    keys = random.split(key, len(leaves))
    drawn = [random.normal(k, s) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def resized(values: jax.Array, num: int) -> jax.Array:
    """Return the first ``num`` values, followed by zeros where there are fewer."""
    return jnp.pad(values, (0, max(num - values.shape[0], 0)))[:num]
