"""Planted mistakes in draws of where a particle came from."""

from dataclasses import dataclass

import jax.numpy as jnp

from bayeskit import inference as bi
from bayeskit.inference import random
from bayeskit.inference.backward import Exact, Metropolis


@dataclass(frozen=True)
class NoFilterWeight(Exact):
    """78: only the transition decides."""

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        flat = jnp.zeros_like(log_weights)
        return super().draw(key, model, time, before, flat, ancestors, after)


@dataclass(frozen=True)
class SwappedArguments(Exact):
    """79: the density of the transition from the later state."""

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        swapped = replaced(model, log_m=lambda t, a, b: model.log_m(t, b, a))
        return super().draw(key, swapped, time, before, log_weights, ancestors, after)


@dataclass(frozen=True)
class NoPotential(Exact):
    """70 backwards: the transition of the guided filter without its weight m g / q."""

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        blind = replaced(model, log_g=lambda t, a, b: 0.0)
        return super().draw(key, blind, time, before, log_weights, ancestors, after)


@dataclass(frozen=True)
class EvenProposal(Metropolis):
    """Metropolis steps that propose evenly and accept as if by the weights."""

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        flat = jnp.zeros_like(log_weights)
        return super().draw(key, model, time, before, flat, ancestors, after)


@dataclass(frozen=True)
class FromTheEnd(Metropolis):
    """Metropolis steps that start at a random particle, not at the ancestor."""

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        start_key, key = random.split(key)
        start = random.categorical(start_key, log_weights, len(ancestors))
        return super().draw(key, model, time, before, log_weights, start, after)


def replaced(model, **functions):
    return bi.FeynmanKac(
        initial=model.initial,
        log_g0=lambda x: model.log_g0(0, x),
        kernel=model.kernel,
        log_g=functions.get("log_g", model.log_g),
        num_steps=model.num_steps,
        log_m=functions.get("log_m", model.log_m),
        log_m_bound=functions.get("log_m_bound"),
    )
