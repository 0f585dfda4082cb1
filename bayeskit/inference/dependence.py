"""Whether what a function returns depends on one of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["depends_on"]


def depends_on(function: Callable, place: int, *arguments: Any) -> bool:
    """Return whether a result may depend on the argument at ``place``; nothing is computed.

    A step that JAX keeps as one counts as a whole: what it returns depends on all it is given.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    sizes = [len(jax.tree.leaves(argument)) for argument in arguments]
    start = sum(sizes[:place])
    seen = set(jaxpr.invars[start : start + sizes[place]])
    for equation in jaxpr.eqns:
        inputs = {v for v in equation.invars if not hasattr(v, "val")}
        if inputs & seen:
            seen.update(equation.outvars)
    return any(not hasattr(v, "val") and v in seen for v in jaxpr.outvars)
