"""Hyper-parameters of the terms and of the noise, learned by the exact evidence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import ConvergenceWarning
from bayeskit.inference.gp_kernels import (
    FreeParameters,
    LogNormal,
    Matern12,
    Matern32,
    Scales,
    White,
)
from bayeskit.inference.gp_kernels.hyperparametric import is_free
from bayeskit.models.functional_tucker.additive.design import AdditiveDesign, column_of
from bayeskit.models.functional_tucker.additive.evidence import Reduced, reduce
from bayeskit.models.functional_tucker.terms import ModeKernel, WithinGroup, on

__all__ = [
    "Settings",
    "free_parameters",
    "learn",
    "scales_of",
    "with_broad_defaults",
    "with_kernels",
    "with_unit_noise",
]

# Broad: two standard deviations are a factor of 20.
SPREAD = 1.5
NOISE_STD = LogNormal(0.3, SPREAD)
_MAX_STEPS = 150
# Nats a prior standard deviation at which a search that stopped early counts as done.
_FLAT = 0.1


@dataclass(frozen=True)
class Settings:
    """What is learned: the standard deviation of the noise, and one kernel for each term."""

    noise: Any
    kernels: tuple[Any, ...]


jax.tree_util.register_dataclass(Settings, ["noise", "kernels"], [])


def with_kernels(
    terms: Sequence[Any], names: Sequence[Any], categories: Sequence[Any] = ()
) -> tuple[Any, ...]:
    """Return terms with a kernel each, the default one where there is none.

    Parameters
    ----------
    terms : sequence of terms
    names, categories : sequences of names
        All modes, and those whose values are exchangeable.
    """
    filled = []
    for term in terms:
        kernel = term.kernel
        if kernel is None:
            if isinstance(term, WithinGroup):
                single = [
                    on(mode, White() if mode in categories else Matern12())
                    for mode in names
                    if mode != term.by
                ]
                kernel = sum(single[1:], start=single[0])
                if len(single) > 1:
                    product = single[0]
                    for factor in single[1:]:
                        product = product * factor
                    kernel = kernel + product
            else:
                kernel = White() if term.mode in categories else Matern32()
        filled.append(replace(term, kernel=kernel))
    return tuple(filled)


def free_parameters(design: AdditiveDesign, noise: Any = None) -> FreeParameters:
    r"""Return the hyper-parameters to be learned, with priors that follow from the data.

    Length scales: the geometric mean of the span of the coordinate and of the typical gap
    between its distinct values. Standard deviations: all terms share the variance of the
    target, 1, equally. All within a factor of :math:`e^{1.5}` with two thirds of the
    probability.
    """
    y = 1.0 / np.sqrt(len(design.terms) + 1.0)
    kernels = []
    for i, term in enumerate(design.terms):
        if isinstance(term, WithinGroup):
            columns = {
                mode: design.table[:, design.names.index(mode)] for mode in term.kernel.modes
            }
            kernels.append(_mode_kernel_with_defaults(term.kernel, columns, y))
        else:
            column = column_of(design, i, design.table)
            kernels.append(with_broad_defaults(term.kernel, scales_of(column, y)))
    return FreeParameters.of(Settings(NOISE_STD if noise is None else noise, tuple(kernels)))


def scales_of(column: np.ndarray, y: float) -> Scales:
    """Return what default priors of a function of this column are made of."""
    distinct = np.unique(column)
    if len(distinct) < 2:
        return Scales(1.0, y)
    typical = np.sqrt(np.ptp(distinct) * np.median(np.diff(distinct)))
    # Kernels take a fifth of the span.
    return Scales(5.0 * float(typical), y)


def with_broad_defaults(kernel: Any, scales: Scales) -> Any:
    """Return a kernel with broad priors where it had None."""
    filled = kernel.with_defaults(scales)
    before = jax.tree.leaves(kernel, is_leaf=is_free)
    after, structure = jax.tree.flatten(filled, is_leaf=is_free)
    broad = [
        LogNormal(new.median, SPREAD) if old is None and isinstance(new, LogNormal) else new
        for old, new in zip(before, after, strict=True)
    ]
    return jax.tree.unflatten(structure, broad)


def _mode_kernel_with_defaults(kernel: ModeKernel, columns: Any, y: float) -> ModeKernel:
    products = []
    for product in kernel.products:
        factors = []
        for place, (mode, part) in enumerate(product):
            if place and getattr(part, "std", 1.0) is None:
                part = replace(part, std=1.0)
            factors.append((mode, with_broad_defaults(part, scales_of(columns[mode], y))))
        products.append(tuple(factors))
    return ModeKernel(tuple(products))


@quick_jit(static_argnames="plan")
def _objective(
    u: Any, plan: Any, free: FreeParameters, arrays: Any, y: Any, weight: Any
) -> Any:
    def log_posterior(u: Any) -> Any:
        settings = free.fill(u)
        reduced = reduce(plan, settings.kernels, arrays, y, weight / settings.noise**2)
        return reduced.log_evidence - 0.5 * jnp.sum(u**2), reduced

    return jax.value_and_grad(log_posterior, has_aux=True)(u)


def with_unit_noise(free: FreeParameters) -> FreeParameters:
    """Return the parameters of Settings with the noise held at 1, for the same programs.

    Weights of rows are then their precisions.
    """
    median, spread = free.median.copy(), free.spread.copy()
    for place, name in enumerate(free.names):
        if name == "noise":
            median[place], spread[place] = 1.0, 0.0
    base = replace(free.base, noise=np.ones_like(free.base.noise))
    return replace(free, base=base, median=median, spread=spread)


def learn(
    design: AdditiveDesign,
    free: FreeParameters,
    y: np.ndarray,
    weight: np.ndarray,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, int, Reduced | None]:
    """Return the u that maximise log evidence plus log prior.

    Parameters
    ----------
    design : AdditiveDesign
    free : FreeParameters of Settings
    y : (rows) array
    weight : (rows) array
        Precision of a row in units of that of the noise; 0 is no data.
    start : (num_free) array, optional
        Where the search starts; default: the medians of the priors.

    Returns
    -------
    u : (num_free) array
    num_evaluations : int
    reduced : Reduced or None
        At the maximum, by the program of the search: no other one need be compiled. None where
        there is nothing to learn.

    Warns
    -----
    ConvergenceWarning
        If the search ends on a slope.
    """
    if not free.num_free:
        return np.zeros(0), 0, None
    y, weight = design.pad(y), design.pad(weight)

    def objective(u: np.ndarray) -> Any:
        return _objective(u, design.plan, free, design.arrays, y, weight)

    def loss(u: np.ndarray) -> tuple[float, np.ndarray]:
        (value, _), gradient = objective(u)
        value, gradient = float(value), np.asarray(gradient)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            # Outside of what can be computed: the line search comes back.
            return 1e10 + float(u @ u), u
        return -value, -gradient

    found = optimize.minimize(
        loss,
        np.zeros(free.num_free) if start is None else start,
        jac=True,
        method="L-BFGS-B",
        # A hundredth of a nat in thousands changes no prediction. Most scales are correlated,
        # so that many corrections are kept.
        options={"maxiter": _MAX_STEPS, "ftol": 3e-6, "maxcor": 30},
    )
    slope = float(np.max(np.abs(found.jac)))
    if not found.success and slope > _FLAT * max(1.0, 1e-4 * abs(found.fun)):
        warnings.warn(
            f"the search for hyper-parameters ended after {found.nit} steps with a slope of "
            f"{slope:.2g} nats a prior standard deviation ({found.message}): fix one of them, "
            "or give narrower priors",
            ConvergenceWarning,
            # The call of fit.
            stacklevel=7,
        )
    return found.x, int(found.nfev), objective(found.x)[0][1]
