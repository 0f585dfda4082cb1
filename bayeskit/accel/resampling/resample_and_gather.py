"""Resample and copy the particles in one program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel._checks import as_log_array, is_traced, refuse_bad_weights
from bayeskit.accel.gather import take_particles
from bayeskit.accel.prng import require_key
from bayeskit.accel.resampling.registry import SCHEMES
from bayeskit.accel.resampling.scheme import Ancestors, draw_checked, offspring_count
from bayeskit.accel.weights import summarise_checked

__all__ = ["resample_and_gather"]


def resample_and_gather(
    key: Any,
    log_weights: Any,
    tree: Any,
    scheme: str = "systematic",
    num: int | None = None,
    *,
    nan: str = "refuse",
    donate: bool = False,
) -> tuple[Any, Ancestors]:
    r"""Resample, and return the copied particles with their ancestors.

    The ancestors a are those of the scheme for the same key, and
    :math:`x'_m = x_{a_m}` leaf by leaf, as by :func:`take_particles`.

    Parameters
    ----------
    key : key
    log_weights : (num_particles,) array, real or -inf, any normalisation
        One row; map over more with ``jax.vmap``.
    tree : pytree of (num_particles, ...) arrays
    scheme : str
        A name in ``bayeskit.accel.SCHEMES``.
    num : int, optional
        Number of offspring. Default: as many as there are particles.
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.
    donate : bool
        Give the memory of ``tree`` to the result: the arrays of ``tree`` must not be used any
        more. Inside ``jit`` it changes nothing; there, donate to the outermost function.

    Returns
    -------
    particles : pytree of (num, ...) arrays
    ancestors : Ancestors

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, leaves whose
        leading axis is not ``num_particles``, a number outside [0, 2**31), an unknown
        scheme, or ``donate`` with a number that is not that of the particles or with an array
        that stands in two places.

    Notes
    -----
    O(N + num) for each leaf.

    No gradient goes through the choice of ancestors: JAX takes its derivative as zero and does
    not say so. ``log_mean`` has its own.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> log_weights, x = jnp.array([-jnp.inf, 0.0]), {"x": jnp.array([3.0, 4.0])}
    >>> particles, ancestors = resample_and_gather(jax.random.key(0), log_weights, x)
    >>> particles["x"].tolist(), ancestors.index.tolist()
    ([4.0, 4.0], [1, 1])
    """
    key = require_key(key)
    log_weights = as_log_array(log_weights, "log_weights", nan)
    if log_weights.ndim != 1:
        raise ValueError(
            f"log_weights must be one row, got shape {log_weights.shape}: map over rows with "
            "jax.vmap"
        )
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(
            f"unknown scheme {scheme!r}: choose one of {sorted(SCHEMES)}. For rejection, call "
            "take_particles with the index of accel.rejection"
        )
    chosen = SCHEMES[scheme]
    num_particles = log_weights.shape[0]
    num = offspring_count(chosen, num_particles, num)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.shape(leaf)[:1] != (num_particles,):
            raise ValueError(
                f"tree{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but there are "
                f"{num_particles} log_weights: every leaf needs a leading axis of particles"
            )
    if donate and num != num_particles:
        raise ValueError(
            f"the memory of {num_particles} particles does not fit {num}: leave out num or "
            "donate"
        )
    if not donate or is_traced(key, log_weights, *jax.tree.leaves(tree)):
        particles, ancestors = _resampled(tree, key, log_weights, chosen, num)
        refuse_bad_weights(log_weights, ancestors.ok, "log_weights")
        return particles, ancestors
    _refuse_shared_memory(tree, log_weights)
    # Before the particles are gone.
    refuse_bad_weights(log_weights, summarise_checked(log_weights).ok, "log_weights")
    return _resampled_in_place(tree, key, log_weights, chosen, num)


def _refuse_shared_memory(tree: Any, log_weights: jax.Array) -> None:
    """Raise for an array that would be given away twice, or is still to be read."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    seen = {id(log_weights): "log_weights"}
    for path, leaf in leaves:
        name = f"tree{jax.tree_util.keystr(path)}"
        if isinstance(leaf, jax.Array) and id(leaf) in seen:
            raise ValueError(
                f"{name} is the same array as {seen[id(leaf)]}, whose memory cannot be given "
                "away twice: copy one of them, or leave out donate"
            )
        seen[id(leaf)] = name


def _resample(tree, key, log_weights, scheme, num):
    ancestors = draw_checked(key, log_weights, scheme, num)
    return take_particles(tree, ancestors.index), ancestors


_resampled = jax.jit(_resample, static_argnames=("scheme", "num"))
_resampled_in_place = jax.jit(
    _resample, static_argnames=("scheme", "num"), donate_argnames="tree"
)
