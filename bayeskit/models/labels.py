"""Labels of axes, such as names of groups, in saved files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_KINDS = re.compile(r"str|bool|int64|float64|datetime64\[\w+\]")


def packed_labels(
    coords: Mapping[str, Any] | None, dims: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    """Return coordinates and dimensions as JSON: texts, numbers and moments in time.

    Labels of other kinds are written as text.
    """
    packed = {}
    for name, values in (coords or {}).items():
        array = np.asarray(values)
        kind = str(array.dtype)
        if not _KINDS.fullmatch(kind):
            kind = {"i": "int64", "u": "int64", "f": "float64"}.get(array.dtype.kind, "str")
        listed = array.astype(str) if kind == "str" or kind.startswith("date") else array
        packed[name] = {"kind": kind, "values": listed.tolist()}
    return {"coords": packed, "dims": {name: list(axes) for name, axes in (dims or {}).items()}}


def unpacked_labels(
    labels: Mapping[str, Any],
) -> tuple[dict[str, Any] | None, dict[str, list[str]] | None]:
    """Return what :func:`packed_labels` was given; None where that was empty.

    Raises
    ------
    TypeError, ValueError, KeyError, AttributeError
        For anything else.
    """
    coords = {}
    for name, packed in labels.get("coords", {}).items():
        kind, values = packed["kind"], packed["values"]
        if not _KINDS.fullmatch(kind) or not isinstance(values, list):
            raise ValueError(f"labels of {name!r} are {kind!r} and {type(values).__name__}")
        coords[name] = np.array(values, dtype=kind)
        if coords[name].ndim != 1:
            raise ValueError(f"labels of {name!r} are no list")
    dims = labels.get("dims", {})
    for name, axes in dims.items():
        if not isinstance(axes, list) or not all(isinstance(axis, str) for axis in axes):
            raise TypeError(f"dimensions of {name!r} must be a list of names")
    return coords or None, dict(dims) or None
