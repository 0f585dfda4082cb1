"""The kinds of random key that blocks understand.

A block never asks what kind of key it holds; the primitives of
:mod:`bayeskit.inference.random` do. Besides an ordinary JAX key there are

- :class:`LaneKey`, the key of one particle among many: every draw of a function written for
  one particle becomes one batched draw for the whole population;
- :class:`EnumerationKey`, with which the validator walks every path of a program and adds up
  the probabilities, so that a law is checked exactly and not by sampling.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from bayeskit.errors import KeyReuseError, TraceLevelError

__all__ = ["EnumerationKey", "LaneKey", "Tape", "trace_level"]


def trace_level() -> object:
    """Return a value that differs inside and outside of each jit, vmap, scan and cond.

    This is the only place that uses the extension interface of JAX for it.
    """
    return jax.extend.core.get_opaque_trace_state(convention="bayeskit")


@jax.tree_util.register_pytree_node_class
class LaneKey:
    """Key of one lane: an unbatched base key and the number of the lane.

    Under ``vmap`` over the lanes every draw is made once, with a leading lane axis, from the
    base key. The numbers of a lane therefore depend on how many lanes there are; their
    distribution does not.
    """

    def __init__(self, base: jax.Array, lane: jax.Array):
        self.base = base
        self.lane = lane

    def tree_flatten(self):
        return (self.base, self.lane), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    def real(self) -> jax.Array:
        """Return an ordinary key that belongs to this lane alone."""
        return jax.random.fold_in(self.base, self.lane)


class Tape:
    """One path through a program: which outcome each draw has, and its log-probability.

    With ``digits=None`` the tape records how many outcomes each draw has (always taking
    outcome 0); with an integer vector it replays that path. With ``keys_only`` nothing is
    enumerated: every draw gives one representative value, continuous ones too, so that only
    the use of the keys is checked. What cannot be followed is then noted in ``unseen``.
    A ``rule`` with functions ``normal(tape, shape)`` and ``uniform(tape, shape)`` stands for
    the continuous draws by quadrature.
    """

    def __init__(
        self,
        digits: jax.Array | None = None,
        quadrature_nodes: int = 0,
        keys_only: bool = False,
        rule: Any = None,
    ):
        self.digits = digits
        self.quadrature_nodes = quadrature_nodes
        self.keys_only = keys_only
        self.rule = rule
        self.unseen: list[str] = []
        self.sizes: list[int] = []
        self.log_probability = jnp.zeros((), jnp.result_type(float))


class EnumerationKey:
    """Key of the exact mode: a draw reads its outcome from a tape.

    It is deliberately no pytree, so that ``jax.random``, ``jit`` and ``lax.scan`` refuse it
    loudly. It can be consumed once: enumeration treats every draw as fresh and would
    otherwise be blind to a key that is used twice.
    """

    def __init__(self, tape: Tape):
        self.tape = tape
        self.used = False
        self.born = trace_level()

    def use(self) -> Tape:
        """Mark this key as consumed and return its tape.

        Raises
        ------
        TraceLevelError
            If the key was created outside of the jit, vmap, scan or cond that uses it.
        KeyReuseError
            If the key was consumed before.
        """
        if self.born != trace_level():
            raise TraceLevelError(
                "a key of the exact mode was used inside a raw jax.jit, jax.vmap, lax.scan or "
                "lax.cond, where one draw would stand for many. Use lanes, scan, cond and "
                "repeat of bayeskit.inference.random instead"
            )
        if self.used:
            raise KeyReuseError(
                "this key was already consumed by a draw or a split. "
                "Split it first and use each part once"
            )
        self.used = True
        return self.tape

    def draw(self, log_probabilities: jax.Array) -> jax.Array:
        """Return indices (...) of outcomes with normalised ``log_probabilities`` (..., K)."""
        tape = self.use()
        *batch, num_outcomes = log_probabilities.shape
        if tape.keys_only:
            return jnp.zeros(batch, jnp.int32)
        num_draws = math.prod(batch)
        start = len(tape.sizes)
        tape.sizes += [num_outcomes] * num_draws
        if tape.digits is None:
            index = jnp.zeros(num_draws, jnp.int32)
        else:
            index = tape.digits[start : start + num_draws].astype(jnp.int32)
        rows = log_probabilities.reshape(num_draws, num_outcomes)
        tape.log_probability += jnp.take_along_axis(rows, index[:, None], axis=1).sum()
        return index.reshape(batch)
