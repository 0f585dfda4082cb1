"""Settings of engines: each must be of the kind that its annotation names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

__all__ = ["check_kinds"]

_KINDS: dict[str, tuple[Any, str]] = {
    "bool": (bool | np.bool_, "True or False"),
    "int": (int | np.integer, "a whole number"),
    "float": (int | float | np.integer | np.floating, "a number"),
}


def check_kinds(settings: Any) -> None:
    """Refuse settings of a dataclass that are no number, no whole number, or no bool.

    Fields annotated ``bool``, ``int`` and ``float`` are looked at, with ``| None`` if they may
    be None, and ``progress``. A bool is no number.

    Raises
    ------
    ValueError
        With the name of the field.

    Examples
    --------
    >>> from bayeskit import SMC
    >>> SMC(max_stages="many")
    Traceback (most recent call last):
        ...
    ValueError: max_stages must be a whole number, got 'many'
    """
    for each in fields(settings):
        value, name = getattr(settings, each.name), str(each.type)
        if each.name == "progress" and not (isinstance(value, bool) or value == "auto"):
            raise ValueError(f"progress must be 'auto', True or False, got {value!r}")
        name, _, optional = name.partition(" | ")
        if name not in _KINDS or optional not in ("", "None") or (optional and value is None):
            continue
        kind, words = _KINDS[name]
        is_other_bool = name != "bool" and isinstance(value, bool | np.bool_)
        if is_other_bool or not isinstance(value, kind):
            raise ValueError(
                f"{each.name} must be {words}{' or None' if optional else ''}, got {value!r}"
            )
