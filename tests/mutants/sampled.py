"""The finite doubles once more, with real random numbers in place of enumerated paths.

A check of a finite double takes ``by``, the way to look: :func:`validate_exactly` walks every
path, :func:`validate_sampled` takes the same arguments and draws. Both see the same code and
the same measure, so that what one finds and the other misses tells what sampling costs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import Target, random
from bayeskit.inference.blocks import Block
from bayeskit.validation import Atoms, Level, Report, validate

__all__ = ["exact_and_sampled", "validate_exactly", "validate_sampled"]

validate_exactly = functools.partial(validate, level="exact")

# For schemes: uneven weights, whole and equal expected numbers, and particles without weight.
_WEIGHTS = np.array([[0.22, 0.13, 0.4, 0.25], [0.25] * 4, [0.25, 0.5, 0.25, 0.0]])


def exact_and_sampled(check: Callable[..., Report], **changes: Any) -> dict[str, Callable]:
    """Return both ways of one check (planted, by=...), with changes of its size to sample."""
    return {
        "exact": check,
        "sampled": functools.partial(check, by=validate_sampled, **changes),
    }


def validate_sampled(
    block: Any,
    *,
    start: Atoms | None = None,
    expected: Any = None,
    observed: Callable | None = None,
    law: str | None = None,
    amount: str | Level = "quick",
) -> Report:
    """Validate a finite double statistically, by draws from the atoms that are given."""
    if start is not None:
        step = _keeps_dtypes(block)
        return validate(step, start=_sampler(start), observed=observed, law=law, level=amount)
    if law == "resampling":
        block, expected, law = _one_offspring(block), _WEIGHED, "draws"
    if law == "draws":
        other = _sampler(expected, like=block)
        return validate(block, expected=other, observed=observed, law="same", level=amount)
    if law == "same":
        return validate(block, expected=expected, observed=observed, law=law, level=amount)
    # What is left is an estimate of the evidence, or a block that makes one.
    target, log_evidence = None, expected
    if isinstance(expected, Atoms):
        log_evidence = float(np.log(np.sum(expected.mass)))
        # The draws are what counts; no test of an estimate asks for the density.
        target = Target(log_density=lambda x: jnp.zeros(()), sample_exact=_sampler(expected))
    law = None if isinstance(block, Block) else law
    return validate(
        block, target, expected=log_evidence, observed=observed, law=law, level=amount
    )


def _sampler(atoms: Atoms, like: Callable | None = None) -> Callable:
    """Return a function of a key that draws one of the states, in the dtypes of ``like``."""

    def draw(key):
        chosen = random.categorical(key, jnp.log(jnp.asarray(atoms.mass)))
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], atoms.state)
        return state if like is None else _cast(state, jax.eval_shape(like, key))

    return draw


def _cast(state: Any, like: Any) -> Any:
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), state, like)


def _keeps_dtypes(step: Callable) -> Callable:
    """Return the step with the dtypes that it got, so that it can be repeated."""

    def kept(key, state):
        return _cast(jax.tree.map(jnp.asarray, step(key, state)), state)

    return kept


_WEIGHED = Atoms(
    (np.repeat(np.arange(len(_WEIGHTS)), 4), np.tile(np.arange(4), len(_WEIGHTS))),
    _WEIGHTS.ravel(),
)


def _one_offspring(scheme: Callable) -> Callable:
    """Return a sampler of one of several weight vectors and of one slot's ancestor.

    The mean number of offspring is right if that ancestor is the particle i with W_i.
    """

    def sampler(key):
        case_key, scheme_key, slot_key = random.split(key, 3)
        case = random.categorical(case_key, jnp.zeros(len(_WEIGHTS)))
        log_weights = jnp.log(jnp.asarray(_WEIGHTS))[case]
        ancestors = scheme(scheme_key, log_weights, 4)
        return case, ancestors[random.categorical(slot_key, jnp.zeros(4))]

    return sampler
