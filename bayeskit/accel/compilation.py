"""Compile quickly what is compiled anew for every model of a user."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["quick_jit"]

# With these XLA compiles one kernel step in about 0.6 of the time, a whole engine in 0.8, on a
# CPU; the programs then run as fast.
_QUICK = {"xla_cpu_use_fusion_emitters": False}
# Without optimisation, for programs that run for milliseconds; and with a little of it.
_LEVELS: dict[bool | str, dict[str, Any]] = {
    True: {},
    "lightly": {"xla_backend_optimization_level": 1},
    False: {"xla_backend_optimization_level": 0},
}


@functools.cache
def _is_supported(name: str, value: Any) -> bool:
    """Return whether the installed XLA knows an option."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        # Options come and go with versions of XLA; they change no result.
        return False
    return True


def quick_jit(
    function: Callable | None = None, *, optimised: bool | str = True, **options: Any
) -> Any:
    """Return ``jax.jit`` of a function, compiled in a shorter time.

    For programs on top, not for functions that other programs call: JAX takes compiler options
    at the outermost ``jit`` only.

    Parameters
    ----------
    function : callable, optional
        Without it, a decorator is returned.
    optimised : bool or "lightly"
        False for what runs so briefly that compiling is all that counts. ``"lightly"`` compiles
        in about 0.7 of the time, and runs as fast where matrix products are most of the work.
    **options
        Passed on to ``jax.jit``, such as ``static_argnames``.

    Returns
    -------
    callable
        With ``eval_shape``, as that of ``jax.jit``: shapes of results, nothing compiled.

    Notes
    -----
    Which options the compiler knows is asked at the first call and not at import, which must
    start no backend.

    Examples
    --------
    >>> from bayeskit.accel.compilation import quick_jit
    >>> double = quick_jit(lambda x: 2 * x)
    >>> float(double(1.5))
    3.0
    """
    if function is None:
        return functools.partial(quick_jit, optimised=optimised, **options)
    wanted = {**_QUICK, **_LEVELS[optimised]}

    @functools.cache
    def compiled() -> Any:
        known = {name: value for name, value in wanted.items() if _is_supported(name, value)}
        return jax.jit(function, compiler_options=known, **options)

    def call(*args: Any, **keywords: Any) -> Any:
        return compiled()(*args, **keywords)

    def eval_shape(*args: Any, **keywords: Any) -> Any:
        return compiled().eval_shape(*args, **keywords)

    wrapped: Any = functools.wraps(function)(call)
    wrapped.eval_shape = eval_shape
    return wrapped
