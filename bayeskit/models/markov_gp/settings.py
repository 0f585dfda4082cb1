"""Kernels and likelihoods as plain values, for files, and by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from bayeskit.errors import CorruptFileError
from bayeskit.inference import gp_kernels
from bayeskit.inference.gp_kernels import LogNormal, StateSpaceKernel
from bayeskit.inference.gp_kernels.hyperparametric import Hyperparametric
from bayeskit.models.markov_gp.likelihoods import LIKELIHOODS, Likelihood

__all__ = ["KERNELS", "as_kernel", "as_likelihood", "from_plain", "to_plain"]

KERNELS: dict[str, type[StateSpaceKernel]] = {
    "matern12": gp_kernels.Matern12,
    "matern32": gp_kernels.Matern32,
    "matern52": gp_kernels.Matern52,
}
_CLASSES: dict[str, type] = {
    one.__name__: one
    for one in (
        *LIKELIHOODS.values(),
        *(
            value
            for value in vars(gp_kernels).values()
            if isinstance(value, type) and issubclass(value, StateSpaceKernel)
        ),
    )
}


def as_kernel(kernel: Any) -> StateSpaceKernel:
    """Return a kernel, given as it is or by its name.

    Raises
    ------
    ValueError, TypeError
        For unknown names, and for what is no kernel.
    """
    if isinstance(kernel, StateSpaceKernel):
        return kernel
    if isinstance(kernel, str):
        if kernel not in KERNELS:
            raise ValueError(
                f"kernel must be one of {', '.join(KERNELS)}, or made of the kernels of "
                f"bayeskit.inference.gp_kernels; got {kernel!r}"
            )
        return KERNELS[kernel]()
    if isinstance(kernel, type) and issubclass(kernel, StateSpaceKernel):
        raise TypeError(
            f"kernel is the class {kernel.__name__}: write {kernel.__name__}(), with brackets"
        )
    raise TypeError(
        "kernel must be a name or made of the kernels of bayeskit.inference.gp_kernels, got "
        f"{type(kernel).__name__}"
    )


def as_likelihood(likelihood: Any, noise: Any) -> Likelihood:
    """Return a likelihood by its name, with its noise.

    Raises
    ------
    ValueError
        For unknown names, and for noise where there is none.
    """
    if likelihood not in LIKELIHOODS:
        raise ValueError(
            f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}"
        )
    kind = LIKELIHOODS[likelihood]
    if kind.takes_noise:
        return kind(noise)  # type: ignore[call-arg]
    if noise is not None:
        raise ValueError(f"likelihood={likelihood!r} has no noise: leave noise=None")
    return kind()


def to_plain(value: Any) -> Any:
    """Return a kernel, prior or number as what JSON can hold."""
    if isinstance(value, Hyperparametric):
        parts = {one.name: to_plain(getattr(value, one.name)) for one in fields(value)}
        return {"class": type(value).__name__, **parts}
    if isinstance(value, LogNormal):
        return {"class": "LogNormal", "median": float(value[0]), "spread": float(value[1])}
    if isinstance(value, int | str | None) and not isinstance(value, np.generic):
        return value
    return float(value)


def from_plain(value: Any) -> Any:
    """Return what :func:`to_plain` took apart.

    Raises
    ------
    CorruptFileError
        For what is no kernel, prior or likelihood.
    """
    if not isinstance(value, dict):
        return value
    parts = {name: from_plain(part) for name, part in value.items() if name != "class"}
    kind = value.get("class")
    if kind != "LogNormal" and kind not in _CLASSES:
        raise CorruptFileError(
            f"the file names a kernel or likelihood {kind!r} that this version does not have; "
            f"known are {', '.join(sorted(_CLASSES))}"
        )
    try:
        return LogNormal(**parts) if kind == "LogNormal" else _CLASSES[kind](**parts)
    except (TypeError, ValueError) as error:
        raise CorruptFileError(f"the file does not describe a {kind}: {error}") from error
