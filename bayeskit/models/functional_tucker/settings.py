"""Parameters of functional tensor models as plain values, for files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from bayeskit.errors import CorruptFileError
from bayeskit.models.functional_tucker.terms import (
    GroupMeanEffect,
    MainEffect,
    ModeKernel,
    WithinGroup,
)
from bayeskit.models.functional_tucker.transforms import BoxCox, Transform
from bayeskit.models.markov_gp import settings

__all__ = ["from_plain", "to_plain"]

_TERMS = {one.__name__: one for one in (MainEffect, GroupMeanEffect, WithinGroup)}


def to_plain(value: Any) -> Any:
    """Return a parameter as what JSON can hold.

    Raises
    ------
    TypeError
        For transforms and names of modes that a file cannot hold.
    """
    if isinstance(value, MainEffect | GroupMeanEffect | WithinGroup):
        parts = {one.name: to_plain(getattr(value, one.name)) for one in fields(value)}
        return {"term": type(value).__name__, **parts}
    if isinstance(value, ModeKernel):
        return {"products": [[to_plain(part) for part in one] for one in value.products]}
    if isinstance(value, BoxCox):
        return {"power": value.power, "shift": value.shift}
    if isinstance(value, Transform):
        raise TypeError(
            f"a file cannot hold the transform {value!r}, which is code of yours: use pickle, "
            "or one of BoxCox"
        )
    if isinstance(value, Mapping):
        return {"mapping": [[to_plain(k), to_plain(v)] for k, v in value.items()]}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [to_plain(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    try:
        return settings.to_plain(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"a file cannot hold {value!r}: name modes and categories by text or numbers, or "
            "use pickle"
        ) from None


def from_plain(value: Any) -> Any:
    """Return what :func:`to_plain` took apart; tuples come back as lists.

    Raises
    ------
    CorruptFileError
        For what is none of them.
    """
    if isinstance(value, list):
        return [from_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    try:
        if "term" in value:
            parts = {k: from_plain(v) for k, v in value.items() if k != "term"}
            return _TERMS[value["term"]](**parts)
        if "products" in value:
            products = (tuple(map(tuple, from_plain(one))) for one in value["products"])
            return ModeKernel(tuple(products))
        if "mapping" in value:
            return {from_plain(k): from_plain(v) for k, v in value["mapping"]}
        if "power" in value:
            return BoxCox(**value)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"the file does not describe a parameter: {error!r}") from error
    return settings.from_plain(value)
