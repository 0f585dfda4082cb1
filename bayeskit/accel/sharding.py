"""Particles spread over devices: the same bits on any number of them.

Programs are written for one device. Inside :func:`on_mesh` their particles are spread over the
devices of a mesh, and XLA inserts the communication. It keeps every value but one kind: a sum
of floats depends on how the terms are grouped, hence on the number of devices. So sums over
particles go through :func:`total`, which adds whole numbers, and what else is reduced over
particles is brought together first by :func:`gathered`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
    "agreed",
    "current_mesh",
    "gathered",
    "on_host",
    "on_mesh",
    "particle_mesh",
    "spread",
    "total",
]

AXIS = "particles"
# Part of the key of every compiled program: the same function has one for each mesh.
_mesh = jax.make_user_context(default_value=None)


def particle_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh with one axis, ``"particles"``.

    Parameters
    ----------
    devices : sequence of jax.Device, optional
        Default: all that JAX sees, those of other processes included.

    Returns
    -------
    jax.sharding.Mesh

    Raises
    ------
    ValueError
        For no devices.

    Examples
    --------
    >>> particle_mesh().axis_names
    ('particles',)
    """
    chosen = jax.devices() if devices is None else list(devices)
    if not chosen:
        raise ValueError("devices must name at least one device, got none")
    return Mesh(np.asarray(chosen), (AXIS,))


@contextlib.contextmanager
def on_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Spread the particles of all programs that start inside over the devices of a mesh.

    Particles are spread where their number divides by the number of devices, and stay
    together elsewhere. The same log-weights then give the same ancestors and sums, bit for
    bit, on a mesh of 1, 2 or more devices, in one process or several. So do whole runs, where
    functions of one particle give the same bits in batches of any size. XLA's products of
    particles with matrices do not: a run with them may end differently in the last bits.

    Parameters
    ----------
    mesh : jax.sharding.Mesh with an axis ``"particles"``, or None for no mesh

    Yields
    ------
    None

    Raises
    ------
    TypeError, ValueError
        For what is no mesh, or has no such axis.

    Notes
    -----
    Each mesh compiles its own program. Of several processes each runs the same lines, after
    ``jax.distributed.initialize``. Seeds start Threefry on a mesh and Philox elsewhere: to
    repeat a run without one, pass ``jax.random.key(seed, impl="threefry2x32")`` in place of the
    seed. Philox keys are refused on a mesh of several devices.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> with on_mesh(particle_mesh()):
    ...     float(total(jnp.array([0.5, 0.25])))
    0.75
    """
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}. "
            "Make one with particle_mesh()"
        )
    if mesh is not None and AXIS not in mesh.axis_names:
        raise ValueError(
            f"the mesh has axes {mesh.axis_names} and needs one called {AXIS!r}. "
            "Make one with particle_mesh(), or name the axis so"
        )
    with _mesh(mesh):
        yield


def current_mesh() -> Mesh | None:
    """Return the mesh of :func:`on_mesh`, or None outside of it.

    Returns
    -------
    jax.sharding.Mesh or None

    Examples
    --------
    >>> current_mesh() is None
    True
    """
    return _mesh.value


def num_shards() -> int:
    """Return over how many devices particles are spread."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape[AXIS]


def is_divided(num_particles: int) -> bool:
    """Return whether so many particles are spread over the devices of a mesh."""
    return current_mesh() is not None and num_particles % num_shards() == 0


def spread(tree: Any) -> Any:
    """Return arrays with their first axis spread over the devices of the mesh.

    Parameters
    ----------
    tree : pytree of (num_particles, ...) arrays

    Returns
    -------
    pytree of the same values; an array stays as it is without a mesh, and where the number of
    particles does not divide by the number of devices

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> with on_mesh(particle_mesh()):
    ...     spread(jnp.arange(8)).sharding.mesh.axis_names
    ('particles',)
    """
    return jax.tree.map(functools.partial(_placed, spec=PartitionSpec(AXIS)), tree)


def gathered(tree: Any) -> Any:
    """Return arrays of which each device has the whole; the same arrays without a mesh.

    For reductions over particles that are no plain sums: every device then does the same.

    Parameters
    ----------
    tree : pytree of arrays

    Returns
    -------
    pytree like the arguments

    Notes
    -----
    Sends all particles to every device.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> with on_mesh(particle_mesh()):
    ...     float(jnp.var(gathered(jnp.arange(8.0))))
    5.25
    """
    return jax.tree.map(functools.partial(_placed, spec=PartitionSpec()), tree)


def on_host(tree: Any) -> Any:
    """Return whole arrays as NumPy arrays, also those that are spread over processes.

    Parameters
    ----------
    tree : pytree of arrays
        Of several processes, each must call this with its part of the same arrays.

    Returns
    -------
    pytree of numpy arrays

    Notes
    -----
    Every process gets everything: as much memory as the whole takes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> with on_mesh(particle_mesh()):
    ...     on_host(spread(jnp.arange(3)))
    array([0, 1, 2], dtype=int32)
    """
    return jax.device_get(jax.tree.map(_whole, tree))


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return multihost_utils.process_allgather(leaf, tiled=True)


def agreed(*values: float) -> list[float]:
    """Return the largest value that any process of the mesh has: what a host loop goes by.

    Clocks and signals differ from process to process, and all must start the same programs.
    Without a mesh, or in one process, the values as they are.

    Examples
    --------
    >>> agreed(1.0, 0.0)
    [1.0, 0.0]
    """
    if current_mesh() is None or jax.process_count() == 1:
        return list(values)
    found = multihost_utils.process_allgather(np.asarray(values, np.float32))
    return [float(value) for value in np.max(np.reshape(found, (-1, len(values))), axis=0)]


def _placed(leaf: Any, spec: PartitionSpec) -> Any:
    mesh, leaf = current_mesh(), jnp.asarray(leaf)
    if mesh is None or (spec and (leaf.ndim == 0 or not is_divided(leaf.shape[0]))):
        return leaf
    return lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))


def total(values: jax.Array) -> jax.Array:
    r"""Return the sum of numbers in [0, 1] along the last axis.

    On a mesh, the same whatever the grouping: with :math:`b = 62 - \lceil \log_2 N \rceil`
    bits, each number is split into a multiple of :math:`2^{-b}` and one of :math:`2^{-2b}`,
    and both are added as integers.

    Parameters
    ----------
    values : (..., num_particles) array

    Returns
    -------
    (...) array of the same dtype; NaN where a value is

    Notes
    -----
    O(N). Differentiable. On a mesh values outside of [0, 1] may overflow.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(total(jnp.array([0.5, 0.125])))
    0.625
    """
    if current_mesh() is None:
        return jnp.sum(values, axis=-1)
    return _exact_total(values)


@jax.custom_jvp
def _exact_total(values: jax.Array) -> jax.Array:
    bits = 62 - values.shape[-1].bit_length()
    with jax.enable_x64(True):
        scaled = values.astype(jnp.float64) * 2.0**bits
        high = scaled.astype(jnp.int64)
        low = ((scaled - high.astype(jnp.float64)) * 2.0**bits).astype(jnp.int64)
        exact = jnp.sum(high, axis=-1).astype(jnp.float64)
        rest = jnp.sum(low, axis=-1).astype(jnp.float64) * 2.0**-bits
        found = ((exact + rest) * 2.0**-bits).astype(values.dtype)
    # As an integer NaN would be zero.
    return jnp.where(jnp.any(jnp.isnan(values), axis=-1), jnp.nan, found)


@_exact_total.defjvp
def _exact_total_jvp(primals, tangents):
    (values,), (change,) = primals, tangents
    return _exact_total(values), jnp.sum(change, axis=-1)


def prefix_sum_over_shards(values: jax.Array, local_prefix_sum: Any) -> jax.Array:
    """Return prefix sums (n,) of integers spread over the mesh, one number from each device."""

    def on_one(part):
        inner = local_prefix_sum(part)
        before = lax.all_gather(inner[-1], AXIS)
        place = lax.axis_index(AXIS)
        earlier = jnp.arange(before.shape[0]) < place
        return inner + jnp.sum(jnp.where(earlier, before, 0), dtype=before.dtype)

    return _on_each_device(on_one, values)


def ancestors_over_shards(cumulative: jax.Array, num: int, local_ancestors: Any) -> jax.Array:
    """Return sorted ancestors (num,), each device those of its own offspring.

    Every device sees all the cumulative offspring, 4 bytes a particle, and counts those that
    begin among its own.
    """
    share = num // num_shards()

    def on_one(part):
        whole = lax.all_gather(part, AXIS, tiled=True)
        return local_ancestors(whole, lax.axis_index(AXIS) * share, share)

    return _on_each_device(on_one, cumulative)


def _on_each_device(function: Any, values: jax.Array) -> jax.Array:
    spec = PartitionSpec(AXIS)
    mapped = jax.shard_map(
        function, mesh=current_mesh(), in_specs=spec, out_specs=spec, check_vma=False
    )
    return mapped(values)
