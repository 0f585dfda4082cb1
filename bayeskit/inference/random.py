"""The primitives through which blocks draw all their random numbers.

Each primitive dispatches on the type of the key (see :mod:`bayeskit.inference.keys`), so that
one and the same block runs fast on ordinary keys and is enumerated exactly by the validator.
All randomness reduces to three base draws (random bits, uniforms and normals); the rest is a
deterministic map of them. Loops around draws are written with :func:`lanes`, :func:`scan`,
:func:`repeat` and :func:`cond` of this module, which unroll when every path is enumerated.

Nothing inside a block may call ``jax.random`` directly: the exact mode could not see it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from bayeskit import accel
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference.keys import EnumerationKey, LaneKey

__all__ = [
    "accept",
    "bits",
    "categorical",
    "common",
    "cond",
    "fold_in",
    "host_generator",
    "lanes",
    "normal",
    "permutation",
    "piecewise_uniform",
    "real_key",
    "repeat",
    "sample",
    "scan",
    "split",
    "switch",
    "uniform",
    "until",
]

Key = jax.Array | LaneKey | EnumerationKey

_BASE_DRAWS: dict[str, Callable] = {
    "uniform": lambda key, shape, dtype: jax.random.uniform(key, shape, dtype),
    "bits": lambda key, shape, dtype: accel.random_words(key, shape),
    "normal": lambda key, shape, dtype: accel.random_normals(key, shape),
}


@functools.cache
def _lane_draw(kind: str, shape: tuple[int, ...], dtype: Any) -> Callable:
    """Build the draw of one lane, with the rule that makes many lanes draw at once."""
    base_draw = _BASE_DRAWS[kind]

    def one(base, lane):
        return base_draw(jax.random.fold_in(base, lane), shape, dtype)

    draw = custom_vmap(one)

    @draw.def_vmap
    def batched_draw(num_lanes, batched, base, lane):
        if not batched[0]:
            return base_draw(base, (num_lanes, *shape), dtype), True
        # A loop whose length differs between lanes batches the base key: draw lane by lane.
        axes = tuple(0 if b else None for b in batched)
        return jax.vmap(one, in_axes=axes)(base, lane), True

    return draw


def _base_draw(key, kind: str, shape, dtype):
    if isinstance(key, LaneKey):
        return _lane_draw(kind, tuple(shape), jnp.dtype(dtype))(key.base, key.lane)
    return _BASE_DRAWS[kind](key, shape, dtype)


def _keys_only(key: Key) -> TypeGuard[EnumerationKey]:
    """Return whether only the use of keys is followed, so that any value stands for a draw."""
    return isinstance(key, EnumerationKey) and key.tape.keys_only


def real_key(key: Key) -> jax.Array:
    """Return an ordinary JAX key, for code that is a guest here and draws by itself.

    Parameters
    ----------
    key : JAX key or lane key

    Returns
    -------
    JAX key

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key: what the guest draws cannot be enumerated.

    Examples
    --------
    Inside of lanes, where a key alone is no key of JAX, each lane has one of its own:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> draw = lambda key, x: x + jax.random.laplace(random.real_key(key))
    >>> draws = random.lanes(draw, jax.random.key(0), jnp.zeros(3))
    >>> len(set(draws.tolist()))
    3
    """
    if _keys_only(key):
        key.use().unseen.append("a key is handed to code that draws with jax.random")
        return jax.random.key(0)
    if isinstance(key, EnumerationKey):
        raise UnenumerableDrawError(
            "this block hands its key to code that draws with jax.random, which the exact mode "
            "cannot enumerate: it is tested by sampling, with start= as a function of a key"
        )
    return key.real() if isinstance(key, LaneKey) else key


def split(key: Key, num: int = 2) -> list:
    """Return ``num`` new keys; ``key`` must not be used again.

    Parameters
    ----------
    key : JAX key, lane key or enumerating key
    num : int

    Returns
    -------
    list of num keys

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> first, second = random.split(jax.random.key(0))
    >>> random.normal(first, (3,)).shape
    (3,)
    """
    if isinstance(key, EnumerationKey):
        tape = key.use()
        return [EnumerationKey(tape) for _ in range(num)]
    if isinstance(key, LaneKey):
        return [LaneKey(base, key.lane) for base in jax.random.split(key.base, num)]
    return list(jax.random.split(key, num))


def fold_in(key: Key, data: int | jax.Array) -> Key:
    """Return the key number ``data`` of the stream that ``key`` names (ordinary keys only).

    Parameters
    ----------
    key : JAX key or lane key
    data : int or () int array

    Returns
    -------
    key

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key.

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> stream = random.fold_in(jax.random.key(0), 7)
    >>> random.normal(stream).shape
    ()
    """
    if _keys_only(key):
        # One key gives many streams, so it is not consumed.
        key.tape.unseen.append("keys are made by fold_in, whose numbers are not compared")
        return EnumerationKey(key.tape)
    if isinstance(key, EnumerationKey):
        raise UnenumerableDrawError("fold_in has no meaning for an enumerating key: use split")
    if isinstance(key, LaneKey):
        return LaneKey(jax.random.fold_in(key.base, data), key.lane)
    return jax.random.fold_in(key, data)


def host_generator(key: jax.Array, *numbers: int) -> np.random.Generator:
    """Return the NumPy generator that ``key`` and whole numbers name.

    For noise that is made on the host and handed to a compiled program as an array: nothing is
    compiled for it, and NumPy draws normal numbers eight times faster than XLA on a CPU.

    Parameters
    ----------
    key : JAX key
        Not consumed: other numbers name other streams of it.
    *numbers : int

    Returns
    -------
    numpy.random.Generator

    Examples
    --------
    The same numbers name the same stream:

    >>> import jax
    >>> from bayeskit.inference import random
    >>> key = jax.random.key(0)
    >>> first, again, other = (random.host_generator(key, n).normal(size=2) for n in (7, 7, 8))
    >>> (first == again).tolist(), (first == other).tolist()
    ([True, True], [False, False])
    """
    words = np.asarray(jax.random.key_data(key)).ravel()
    seed = np.random.SeedSequence([*map(int, words), *numbers])
    return np.random.Generator(np.random.Philox(seed))


def bits(key: Key, shape: tuple[int, ...] = ()) -> jax.Array:
    """Return random 32-bit unsigned integers.

    Parameters
    ----------
    key : JAX key or lane key
    shape : tuple of int

    Returns
    -------
    uint32 array of the shape

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key.

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> random.bits(jax.random.key(0), (2,)).dtype
    dtype('uint32')
    """
    if _keys_only(key):
        key.use()
        return jnp.zeros(shape, jnp.uint32)
    if isinstance(key, EnumerationKey):
        raise UnenumerableDrawError("bits has too many outcomes to enumerate: use categorical")
    return _base_draw(key, "bits", shape, jnp.uint32)


def uniform(key: Key, shape: tuple[int, ...] = (), dtype: Any = float) -> jax.Array:
    """Return uniform numbers in [0, 1).

    Parameters
    ----------
    key : JAX key or lane key
    shape : tuple of int
    dtype : floating-point type
        Default: that of the precision at hand.

    Returns
    -------
    array of the shape in [0, 1)

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key. Say what the uniform is for: :func:`accept`,
        :func:`categorical` and :func:`piecewise_uniform` have finitely many outcomes.

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> bool(0.0 <= random.uniform(jax.random.key(0)) < 1.0)
    True
    """
    if _keys_only(key):
        key.use()
        return jnp.full(shape, 0.5, jnp.result_type(dtype))
    if isinstance(key, EnumerationKey):
        if key.tape.rule is not None:
            return key.tape.rule.uniform(key.use(), shape)
        raise UnenumerableDrawError(
            "uniform has no finite number of outcomes: use accept, categorical or "
            "piecewise_uniform, or pass start= as a function of a key"
        )
    return _base_draw(key, "uniform", shape, jnp.result_type(dtype))


def normal(key: Key, shape: tuple[int, ...] = (), dtype: Any = float) -> jax.Array:
    """Return standard normal numbers, the same in single and in double precision.

    Each comes from 32 random bits, with a relative error of about 1e-6 and up to 6.3 standard
    deviations; see :func:`bayeskit.accel.normal_of_words`.

    With an enumerating key the outcomes are Gauss-Hermite nodes, if a number of nodes was
    given; expectations of polynomials up to degree ``2 * nodes - 1`` are then exact.

    Parameters
    ----------
    key : JAX key, lane key or enumerating key
    shape : tuple of int
    dtype : floating-point type
        Default: that of the precision at hand.

    Returns
    -------
    array of the shape

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key without quadrature nodes.

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> random.normal(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    if _keys_only(key):
        key.use()
        return jnp.zeros(shape, jnp.result_type(dtype))
    if isinstance(key, EnumerationKey):
        if key.tape.rule is not None:
            return key.tape.rule.normal(key.use(), shape)
        if not key.tape.quadrature_nodes:
            raise UnenumerableDrawError(
                "normal has no finite number of outcomes: pass start= as a function of a key, "
                "so that the step is tested by sampling, or use level='quadrature'"
            )
        nodes, weights = np.polynomial.hermite_e.hermegauss(key.tape.quadrature_nodes)
        log_probabilities = jnp.log(jnp.asarray(weights / weights.sum()))
        index = key.draw(jnp.broadcast_to(log_probabilities, (*shape, len(nodes))))
        return jnp.asarray(nodes)[index]
    return _base_draw(key, "normal", shape, jnp.float32).astype(jnp.result_type(dtype))


def _usable(logits: jax.Array) -> jax.Array:
    """Put the mass of each row without a finite maximum on outcome 0, so that none is NaN."""
    first_only = jnp.where(jnp.arange(logits.shape[-1]) == 0, 0.0, -jnp.inf)
    return jnp.where(jnp.isfinite(jnp.max(logits, axis=-1, keepdims=True)), logits, first_only)


def _log_softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(_usable(logits), axis=-1)


def integers(key: Key, num_values: int, shape: tuple[int, ...] = ()) -> jax.Array:
    """Return whole numbers drawn uniformly from 0, ..., num_values - 1.

    Parameters
    ----------
    key : key
    num_values : int >= 1
    shape : tuple of int
        Shape of the result.

    Returns
    -------
    shape int32 array

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> bool(random.integers(jax.random.key(0), 6, (1000,)).max() == 5)
    True
    """
    edges = np.arange(1, num_values) / num_values
    u = piecewise_uniform(key, shape, lambda: jnp.broadcast_to(edges, (*shape, edges.size)))
    with jax.enable_x64(True):
        return jnp.floor(u * num_values).astype(jnp.int32)


def categorical(key: Key, logits: jax.Array, num: int | None = None) -> jax.Array:
    r"""Return indices drawn with probabilities :math:`\propto \exp(\text{logits})`.

    Parameters
    ----------
    key : key
    logits : (..., K) array, real or -inf, any normalisation
    num : int, optional
        Number of independent draws from one vector of logits (K,). Without it, one draw for
        each row.

    Returns
    -------
    (num,) or (...) int32 array
        Outcomes of probability zero are never drawn. A row of -inf gives outcome 0.

    Examples
    --------
    Three draws in ten of an outcome of probability 0.3, and none of one of probability 0:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> logits = jnp.log(jnp.array([0.3, 0.0, 0.7]))
    >>> draw = jax.jit(lambda key: random.categorical(key, logits, num=10_000))
    >>> draws = draw(jax.random.key(0))
    >>> round(float(jnp.mean(draws == 0)), 1), int(jnp.sum(draws == 1))
    (0.3, 0)
    """
    if isinstance(key, EnumerationKey):
        rows = logits if num is None else jnp.broadcast_to(logits, (num, *logits.shape))
        return key.draw(_log_softmax(rows))
    if num is not None:
        scheme = accel.SCHEMES["multinomial"]
        cdf = accel.scaled_cdf(_usable(logits), num)
        return scheme.ancestors(cdf, piecewise_uniform(key, (num,)), num)
    cdf = jnp.cumsum(jnp.exp(_log_softmax(logits)), axis=-1)
    u = uniform(key, cdf.shape[:-1], cdf.dtype)[..., None] * cdf[..., -1:]
    return jnp.sum(cdf <= u, axis=-1).astype(jnp.int32)


def accept(key: Key, log_ratio: jax.Array) -> jax.Array:
    """Return True with probability ``min(1, exp(log_ratio))``; a NaN ratio rejects.

    Parameters
    ----------
    key : JAX key, lane key or enumerating key
    log_ratio : () array

    Returns
    -------
    () bool array

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> bool(random.accept(jax.random.key(0), 0.0))
    True
    """
    log_probability = jnp.where(jnp.isnan(log_ratio), -jnp.inf, jnp.minimum(log_ratio, 0.0))
    if isinstance(key, EnumerationKey):
        reject = jnp.log1p(-jnp.exp(log_probability))
        return key.draw(jnp.stack([reject, log_probability], axis=-1)) == 1
    u = uniform(key, log_probability.shape, log_probability.dtype)
    return jnp.log(u) < log_probability


def permutation(key: Key, num: int) -> jax.Array:
    """Return a uniformly random permutation of ``range(num)`` as int32 (num,).

    Parameters
    ----------
    key : JAX key, lane key or enumerating key
    num : int

    Returns
    -------
    (num,) int32 array

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> sorted(random.permutation(jax.random.key(0), 3).tolist())
    [0, 1, 2]
    """
    if _keys_only(key):
        key.use()
        return jnp.arange(num, dtype=jnp.int32)
    if isinstance(key, EnumerationKey):
        table = jnp.asarray(list(itertools.permutations(range(num))), jnp.int32)
        equal = jnp.full(len(table), -math.log(len(table)), jnp.result_type(float))
        return table[key.draw(equal)]
    return jnp.argsort(uniform(key, (num,))).astype(jnp.int32)


def piecewise_uniform(
    key: Key,
    shape: tuple[int, ...],
    breaks: Callable[[], jax.Array] | None = None,
) -> jax.Array:
    r"""Return float64 uniforms in (0, 1) that are used only through comparison with ``breaks``.

    Parameters
    ----------
    key : key
    shape : tuple of int
        Shape of the result.
    breaks : callable () -> (\*shape, B) array in [0, 1]
        Called only with an enumerating key: the outcomes are then the midpoints of the B + 1
        cells between the breaks, each with its length as probability.

    Returns
    -------
    float64 array of the shape

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key without breaks.

    Examples
    --------
    Double precision, whatever the precision at hand. The exact mode takes the midpoints of the
    cells on both sides of a break, with their lengths as probabilities:

    >>> import jax
    >>> import numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, enumerate_paths
    >>> random.piecewise_uniform(jax.random.key(0), (3,)).dtype
    dtype('float64')
    >>> draw = lambda key, x: random.piecewise_uniform(key, (), lambda: np.array([0.3]))
    >>> law = enumerate_paths(draw, Atoms(np.zeros(1), np.ones(1)))
    >>> law.state.round(3).tolist(), law.mass.round(3).tolist()
    ([0.15, 0.65], [0.3, 0.7])
    """
    if not isinstance(key, EnumerationKey):
        words = bits(key, shape) if shape else accel.fold_words(bits(key, (4,)))
        with jax.enable_x64(True):
            return (words.astype(jnp.float64) + 0.5) * 2.0**-32
    if _keys_only(key):
        key.use()
        with jax.enable_x64(True):
            return jnp.full(shape, 0.5, jnp.float64)
    if breaks is None:
        raise UnenumerableDrawError("piecewise_uniform needs its breaks in the exact mode")
    inner = jnp.clip(jnp.sort(breaks(), axis=-1), 0.0, 1.0)
    # Without breaks there is one cell.
    ends = jnp.zeros((*inner.shape[:-1], 1), inner.dtype)
    edges = jnp.concatenate([ends, inner, ends + 1.0], axis=-1)
    cell = key.draw(jnp.log(jnp.diff(edges, axis=-1)))[..., None]
    low = jnp.take_along_axis(edges, cell, axis=-1)
    high = jnp.take_along_axis(edges, cell + 1, axis=-1)
    return ((low + high) / 2)[..., 0]


def _location_scale_normal(key, distribution):
    dtype = jnp.result_type(distribution.loc, distribution.scale, float)
    noise = normal(key, distribution.batch_shape, dtype)
    return distribution.loc + distribution.scale * noise


def _multivariate_normal(key, distribution):
    dtype = jnp.result_type(distribution.loc, distribution.scale_tril, float)
    noise = normal(key, distribution.shape(), dtype)
    return distribution.loc + (distribution.scale_tril @ noise[..., None])[..., 0]


def _exponential(key, distribution):
    dtype = jnp.result_type(distribution.rate, float)
    return -jnp.log1p(-uniform(key, distribution.batch_shape, dtype)) / distribution.rate


# Families that draw through the primitives above, hence once for a whole population.
_FAMILIES: dict[str, Callable] = {
    "Normal": _location_scale_normal,
    "LogNormal": lambda key, d: jnp.exp(_location_scale_normal(key, d.base_dist)),
    "HalfNormal": lambda key, d: d.scale * jnp.abs(normal(key, d.batch_shape)),
    "MultivariateNormal": _multivariate_normal,
    "Exponential": _exponential,
    "Uniform": lambda key, d: d.low + (d.high - d.low) * uniform(key, d.batch_shape),
    "CategoricalLogits": lambda key, d: categorical(key, d.logits),
    "CategoricalProbs": lambda key, d: categorical(key, jnp.log(d.probs)),
    "BernoulliLogits": lambda key, d: accept(key, jax.nn.log_sigmoid(d.logits)).astype(int),
    "BernoulliProbs": lambda key, d: accept(key, jnp.log(d.probs)).astype(int),
    "Delta": lambda key, d: d.v,
}


# They change the density of a distribution and not what it draws.
_WRAPPERS = ("Independent", "MaskedDistribution")


def sample(key: Key, distribution: Any) -> jax.Array:
    """Draw once from a NumPyro distribution on any kind of key.

    Finite supports are enumerated by an enumerating key; the common families draw one batch
    for all lanes; every other family draws lane by lane with its own ``sample``.

    Parameters
    ----------
    key : JAX key, lane key or enumerating key
    distribution : numpyro.distributions.Distribution

    Returns
    -------
    array

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key and a distribution without finite support.

    Examples
    --------
    >>> import jax, numpyro.distributions as dist
    >>> from bayeskit.inference import random
    >>> bool(random.sample(jax.random.key(0), dist.Gamma(2.0, 1.0)) > 0)
    True
    """
    while type(distribution).__name__ in _WRAPPERS:
        distribution = distribution.base_dist
    if isinstance(key, EnumerationKey) and distribution.has_enumerate_support:
        values = distribution.enumerate_support(expand=False)
        log_probabilities = jnp.moveaxis(distribution.log_prob(values), 0, -1)
        index = key.draw(_log_softmax(log_probabilities))
        return jnp.ravel(values)[index]
    family = _FAMILIES.get(type(distribution).__name__)
    if family is not None:
        return family(key, distribution)
    if _keys_only(key):
        key.use()
        return distribution.sample(jax.random.key(0))
    if isinstance(key, EnumerationKey):
        raise UnenumerableDrawError(
            f"{type(distribution).__name__} has no finite support: the exact mode cannot "
            "enumerate it. Validate in statistical mode"
        )
    return distribution.sample(threefry(real_key(key)))


def threefry(key: jax.Array) -> jax.Array:
    """Return a key that every sampler of JAX takes; that of Poisson takes no other."""
    if "fry" in str(key.dtype):
        return key
    with jax.enable_x64(False):
        words = jax.random.bits(key, (2,), jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


# ---------------------------------------------------------------- loops around draws

# Rounds of a loop without fixed end that the exact mode lays out.
_MOST_UNROLLED = 16


def _num_lanes(args) -> int:
    return jax.tree.leaves(args)[0].shape[0]


def _num_unrolled(key: EnumerationKey, num: int) -> int:
    """Return how many rounds are unrolled: two show whether keys are used twice."""
    return min(num, 2) if key.tape.keys_only else num


def _stacked(results: list, num: int) -> Any:
    """Stack the results of the rounds that were unrolled; the last stands for the others."""
    rounds = np.minimum(np.arange(num), len(results) - 1)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
    return stacked if len(results) == num else jax.tree.map(lambda x: x[rounds], stacked)


def lanes(f: Callable, key: Key, *args: Any) -> Any:
    """Map ``f(key, *args_i)``, written for one particle, over the leading axis of ``args``.

    Each draw inside ``f`` is one batched draw for all lanes. Lanes nest.

    Parameters
    ----------
    f : callable (key, *args_i) -> pytree
    key : JAX key, lane key or enumerating key
    *args : pytree, each leaf (num_particles, ...)

    Returns
    -------
    pytree of what f returns, with a leading axis of particles

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> walk = lambda key, x: x + random.normal(key)
    >>> random.lanes(walk, jax.random.key(0), jnp.zeros(5)).shape
    (5,)
    """
    num = _num_lanes(args)
    if isinstance(key, EnumerationKey):
        results = [
            f(lane_key, *jax.tree.map(lambda leaf, i=i: leaf[i], args))
            for i, lane_key in enumerate(split(key, _num_unrolled(key, num)))
        ]
        return _stacked(results, num)
    base = real_key(key)
    return jax.vmap(lambda lane, *one: f(LaneKey(base, lane), *one))(
        jnp.arange(num, dtype=jnp.uint32), *args
    )


def scan(f: Callable, key: Key, carry: Any, inputs: Any) -> tuple[Any, Any]:
    """Run ``carry, output = f(key_i, carry, input_i)`` over the leading axis of ``inputs``.

    ``inputs`` is an array or a pytree of arrays; the stacked outputs are returned as in
    ``lax.scan``. The number of rounds is static.

    Parameters
    ----------
    f : callable (key, carry, input) -> (carry, output)
    key : JAX key, lane key or enumerating key
    carry : pytree
    inputs : pytree, each leaf (num, ...)

    Returns
    -------
    (carry, outputs)
        The last carry, and outputs with a leading axis.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> step = lambda key, x, drift: (x + drift + random.normal(key), x)
    >>> last, path = random.scan(step, jax.random.key(0), jnp.zeros(()), jnp.ones(4))
    >>> path.shape
    (4,)
    """
    num = _num_lanes(inputs)
    if isinstance(key, EnumerationKey):
        outputs = []
        for i, round_key in enumerate(split(key, _num_unrolled(key, num))):
            carry, output = f(round_key, carry, jax.tree.map(lambda x, i=i: x[i], inputs))
            outputs.append(output)
        return carry, _stacked(outputs, num)
    keys: Any
    if isinstance(key, LaneKey):
        keys = LaneKey(jax.random.split(key.base, num), jnp.broadcast_to(key.lane, (num,)))
    else:
        keys = jax.random.split(key, num)
    return lax.scan(lambda c, xs: f(xs[0], c, xs[1]), carry, (keys, inputs))


def repeat(f: Callable, key: Key, carry: Any, num: int | jax.Array) -> Any:
    """Run ``carry = f(key_i, carry, i)`` for i in range(num); ``num`` may be traced.

    A traced ``num`` is refused with an enumerating key, whose draws must be countable.

    Parameters
    ----------
    f : callable (key, carry, i) -> carry
    key : JAX key, lane key or enumerating key
    carry : pytree
    num : int or () int array

    Returns
    -------
    the last carry

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key, if the number of rounds depends on the state.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> step = lambda key, x, i: x + random.accept(key, 0.0)
    >>> int(random.repeat(step, jax.random.key(0), jnp.array(0), 4))
    4
    """
    if isinstance(key, EnumerationKey):
        if key.tape.keys_only:
            num = 2 if isinstance(num, jax.core.Tracer) else _num_unrolled(key, int(num))
        if isinstance(num, jax.core.Tracer):
            raise UnenumerableDrawError(
                "repeat: the number of rounds depends on the state; "
                "the exact mode needs a fixed number"
            )
        for i, round_key in enumerate(split(key, int(num))):
            carry = f(round_key, carry, i)
        return carry
    return lax.fori_loop(0, num, lambda i, c: f(fold_in(key, i), c, i), carry)


def cond(predicate: jax.Array, f: Callable, key: Key, operand: Any) -> Any:
    """Return ``f(key, operand)`` where ``predicate`` holds, else ``operand`` unchanged.

    The exact mode runs ``f`` and selects: the outcomes of draws that are not needed add up
    to probability one.

    Parameters
    ----------
    predicate : () bool array
    f : callable (key, operand) -> operand
    key : JAX key, lane key or enumerating key
    operand : pytree

    Returns
    -------
    pytree like operand

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> jump = lambda key, x: x + random.normal(key)
    >>> float(random.cond(jnp.array(False), jump, jax.random.key(0), jnp.array(2.0)))
    2.0
    """
    if isinstance(key, EnumerationKey):
        changed = f(key, operand)
        return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), changed, operand)
    return lax.cond(predicate, lambda x: f(key, x), lambda x: x, operand)


def switch(index: jax.Array, branches: Sequence[Callable], key: Key, operand: Any) -> Any:
    """Return ``branches[index](key_i, operand)``; only the chosen branch is computed.

    Each branch has a key of its own, and all return the same structure and shapes; dtypes are
    promoted to a common one. In lanes all branches run and one result is selected, and so they
    do in the exact mode, where the outcomes of draws that are not needed add up to probability
    one.

    Parameters
    ----------
    index : () int array
    branches : sequence of callable (key, operand) -> pytree
    key : JAX key, lane key or enumerating key
    operand : pytree

    Returns
    -------
    what the chosen branch returns

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> branches = [lambda key, x: x, lambda key, x: 2 * x]
    >>> float(random.switch(jnp.array(1), branches, jax.random.key(0), jnp.array(3.0)))
    6.0
    """
    calls = [
        functools.partial(branch, branch_key)
        for branch, branch_key in zip(branches, split(key, len(branches)), strict=True)
    ]
    if isinstance(key, EnumerationKey):
        results = [call(operand) for call in calls]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[index], *results)
    shapes = [jax.eval_shape(call, operand) for call in calls]
    dtypes = jax.tree.map(lambda *leaves: jnp.result_type(*leaves), *shapes)

    def alike(call: Callable) -> Callable:
        return lambda x: jax.tree.map(jnp.asarray, call(x), dtypes)

    return lax.switch(index, [alike(call) for call in calls], operand)


def until(
    done: Callable, f: Callable, key: Key, carry: Any, max_rounds: int
) -> tuple[Any, jax.Array]:
    """Run ``carry = f(key_i, carry, i)`` until ``done(carry)``, at most ``max_rounds`` times.

    The exact mode runs all ``max_rounds`` and selects: the outcomes of draws that are not
    needed add up to probability one.

    Parameters
    ----------
    done : callable (carry) -> () bool array
    f : callable (key, carry, i) -> carry
    key : JAX key, lane key or enumerating key
    carry : pytree
    max_rounds : int

    Returns
    -------
    carry : pytree
    num_rounds : () int32

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key and more than 16 rounds: nobody could walk all paths.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> doubled = lambda key, x, i: 2 * x
    >>> x, num_rounds = random.until(
    ...     lambda x: x > 10, doubled, jax.random.key(0), jnp.array(1), max_rounds=100
    ... )
    >>> int(x), int(num_rounds)
    (16, 4)
    """
    if _keys_only(key):
        return repeat(f, key, carry, 2), jnp.asarray(2, jnp.int32)
    if isinstance(key, EnumerationKey):
        if isinstance(max_rounds, jax.core.Tracer) or max_rounds > _MOST_UNROLLED:
            raise UnenumerableDrawError(
                "until: the number of rounds depends on the state; the exact mode walks at "
                f"most max_rounds={_MOST_UNROLLED} of them, got {max_rounds}"
            )
        num = jnp.zeros((), jnp.int32)
        for i, round_key in enumerate(split(key, max_rounds)):
            runs = ~done(carry)
            carry = cond(runs, lambda k, now, i=i: f(k, now, i), round_key, carry)
            num = num + runs
        return carry, num

    def body(now: tuple) -> tuple:
        i, inner = now
        return i + 1, f(fold_in(key, i), inner, i)

    def goes_on(now: tuple) -> jax.Array:
        return ~done(now[1]) & (now[0] < max_rounds)

    num, carry = lax.while_loop(goes_on, body, (jnp.zeros((), jnp.int32), carry))
    return carry, num


def common(f: Callable, key: Key, first: Any, second: Any) -> tuple[Any, Any]:
    """Return ``f(key, first)`` and ``f(key, second)``, driven by the same random numbers.

    The only place where one key is used twice, on purpose: each of the two results has the law
    that it should have, and together they resemble each other.

    Parameters
    ----------
    f : callable (key, argument) -> pytree
    key : JAX key or lane key
    first, second : pytree

    Returns
    -------
    two results of f

    Raises
    ------
    UnenumerableDrawError
        For an enumerating key, where a draw of either is an outcome of its own.

    Examples
    --------
    >>> import jax
    >>> from bayeskit.inference import random
    >>> walk = lambda key, x: x + random.normal(key)
    >>> first, second = random.common(walk, jax.random.key(0), 0.0, 1.0)
    >>> round(float(second - first), 5)
    1.0
    """
    if _keys_only(key):
        result = f(key, first)
        return result, result
    if isinstance(key, EnumerationKey):
        raise UnenumerableDrawError(
            "common random numbers cannot be enumerated: couple the draws by "
            "maximal_categorical, or validate with start= as a function of a key"
        )
    return f(key, first), f(key, second)
