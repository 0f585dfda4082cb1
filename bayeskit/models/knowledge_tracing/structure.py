"""What a knowledge tracer is made of, and the parameters that all learners share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.knowledge_tracing.rows import UNIT_DAYS

__all__ = ["Parameter", "Structure", "checked_fixed", "log_prior", "natural", "parameters_of"]

_MINUTE = 1 / 1440
# Influence of one component on another: with 1 it would be followed all the way.
EDGE_SD = 0.3
# Wrong, correct, studied.
_NUM_OUTCOMES = 3
# A rate, a gain or a volatility that is a hundred times another is no news to these.
_POSITIVE = (
    "time_scale",
    "sd",
    "jump_sd",
    "ability_sd",
    "drift_sd",
    "drift_time",
    "initial_sd",
)
_FRACTIONS = ("saturation", "transfer")


@dataclass(frozen=True)
class Structure:
    """Which terms a model has, and how many of each; programs are compiled for it.

    Parameters
    ----------
    num_kc, num_items, num_versions : int
    kc_scales, version_scales : int
        Ornstein-Uhlenbeck states of a component, and of each of its versions.
    ability : tuple of str
        Parts of the ability that all components share: "static", "drift".
    item_effects, practice, saturation, spacing, jump_noise, rate_change : bool
    graph : bool
        Whether components pull at one another, so that all are filtered jointly.
    frozen_parent : bool
        Whether parents stand still over a gap.
    learns_graph : bool
        Whether weights of edges are parameters.
    """

    num_kc: int
    num_items: int = 0
    num_versions: int = 0
    kc_scales: int = 2
    version_scales: int = 0
    ability: tuple[str, ...] = ("static", "drift")
    item_effects: bool = True
    practice: bool = True
    saturation: bool = True
    spacing: bool = True
    jump_noise: bool = True
    rate_change: bool = True
    graph: bool = False
    frozen_parent: bool = False
    learns_graph: bool = False

    @property
    def block_dim(self) -> int:
        """States of one component with its versions."""
        return self.kc_scales + self.num_versions * self.version_scales

    @property
    def num_types(self) -> int:
        """Kinds of states, each with a time scale of its own."""
        return self.kc_scales + (self.version_scales if self.num_versions else 0)

    @property
    def slot_types(self) -> np.ndarray:
        """Kind of each state of a block, (block_dim,)."""
        versions = np.tile(np.arange(self.version_scales), self.num_versions)
        return np.concatenate([np.arange(self.kc_scales), self.kc_scales + versions]).astype(
            int
        )

    @property
    def slot_counts(self) -> np.ndarray:
        """Count of exposures that belongs to each state: 0 the component's, or 1 + v."""
        versions = np.repeat(np.arange(self.num_versions), self.version_scales)
        return np.concatenate([np.zeros(self.kc_scales), 1 + versions]).astype(int)


class Parameter(NamedTuple):
    """Where a parameter starts, and its normal prior on the scale on which it is learned.

    Parameters
    ----------
    start : array
        In natural units.
    scale : {"real", "tenths", "log", "logit"}
    mean : float or array
        Of the prior, on that scale.
    sd : float
        Infinite for a flat prior.
    """

    start: np.ndarray
    scale: str
    mean: Any
    sd: float


def parameters_of(structure: Structure, time_unit: str) -> dict[str, Parameter]:
    """Return the parameters of a model by name."""
    s = structure
    minute = _MINUTE / UNIT_DAYS[time_unit]
    C, outcomes = s.num_types, (s.num_types, _NUM_OUTCOMES)
    scales = np.concatenate([_scales(s.kc_scales), _scales(s.version_scales)])[:C] * minute
    found = {
        "level": Parameter(np.asarray(-0.8), "real", 0.0, np.inf),
        "time_scale": Parameter(scales, "log", np.log(scales), 2.0),
        "sd": Parameter(np.full(C, 0.5), "log", np.log(0.5), 1.0),
    }
    if s.item_effects:
        found["kc_effect"] = Parameter(np.zeros(s.num_kc), "real", 0.0, 0.5)
        if s.num_items:
            found["item_effect"] = Parameter(np.zeros(s.num_items), "real", 0.0, 0.4)
    if "static" in s.ability:
        found["ability_sd"] = Parameter(np.asarray(0.5), "log", 0.0, np.inf)
    if "drift" in s.ability:
        start = 30.0 * minute
        found["drift_sd"] = Parameter(np.asarray(0.5), "log", 0.0, np.inf)
        found["drift_time"] = Parameter(np.asarray(start), "log", np.log(start), np.sqrt(2.0))
    if s.practice:
        gains = np.broadcast_to([0.3, 0.6, 0.6], outcomes)
        found["gain"] = Parameter(gains, "real", 0.3, 1.0)
        if s.saturation:
            found["saturation"] = Parameter(np.full(outcomes, 0.05), "logit", -2.0, 1.5)
        if s.spacing:
            found["spacing"] = Parameter(np.zeros(outcomes), "real", 0.0, 0.2)
        if s.jump_noise:
            found["jump_sd"] = Parameter(np.full(outcomes, 0.1), "log", np.log(0.2), 1.0)
    if s.rate_change:
        found["rate_change"] = Parameter(np.zeros(C), "real", 0.0, 1.0)
    if s.learns_graph:
        found["edge"] = Parameter(np.zeros((s.num_kc, s.num_kc)), "tenths", 0.0, 10.0 * EDGE_SD)
    elif s.graph:
        found["transfer"] = Parameter(np.asarray(0.5), "logit", 0.0, 1.5)
    return found


def _scales(num: int) -> np.ndarray:
    """Return starts for time scales in minutes: an hour, or from minutes to days."""
    if num == 1:
        return np.array([60.0])
    return np.geomspace(3.0, 3000.0, num)


def checked_fixed(
    fixed: dict | None, known: dict[str, Parameter], structure: Structure
) -> dict[str, np.ndarray]:
    """Return numbers that the user fixed, by name, in natural units.

    Raises
    ------
    ValueError
        For a name that the model does not have, another shape, or numbers out of range.
    """
    shapes = {name: np.shape(p.start) for name, p in known.items()}
    shapes |= dict.fromkeys(("initial_mean", "initial_sd"), (structure.num_types,))
    found = {}
    for name, value in (fixed or {}).items():
        if name not in shapes:
            raise ValueError(
                f"parameters: {name!r} is not a parameter of this model, which has "
                f"{sorted(shapes)}"
            )
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parameters[{name!r}] must hold numbers, got {value!r}"
            ) from error
        try:
            array = np.broadcast_to(array, shapes[name]).copy()
        except ValueError:
            raise ValueError(
                f"parameters[{name!r}] must have the shape {shapes[name]}, got {array.shape}"
            ) from None
        if not np.isfinite(array).all():
            raise ValueError(f"parameters[{name!r}] must be finite, got {array}")
        if name in _POSITIVE and (array <= 0).any():
            raise ValueError(f"parameters[{name!r}] must be positive, got {array.min():g}")
        if name in _FRACTIONS and ((array < 0) | (array >= 1)).any():
            bad = array[(array < 0) | (array >= 1)][0]
            raise ValueError(f"parameters[{name!r}] must lie in [0, 1), got {bad:g}")
        found[name] = array
    if ("initial_mean" in found) != ("initial_sd" in found):
        raise ValueError(
            "parameters: give both initial_mean and initial_sd, or neither, and states are "
            "stationary"
        )
    return found


_TO_NATURAL: dict[str, Any] = {
    "real": lambda u: u,
    "tenths": lambda u: 0.1 * u,
    "log": jnp.exp,
    "logit": jax.nn.sigmoid,
}
_FROM_NATURAL: dict[str, Any] = {
    "real": lambda x: x,
    # There are many weights, and each is small: all of them move slowly together.
    "tenths": lambda x: 10.0 * x,
    "log": np.log,
    "logit": lambda x: np.log(x) - np.log1p(-x),
}


def starts(known: dict[str, Parameter], fixed: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return where what is learned starts, on the scale on which it is learned."""
    return {
        name: _FROM_NATURAL[p.scale](np.asarray(p.start, np.float64))
        for name, p in known.items()
        if name not in fixed
    }


def scales_of(known: dict[str, Parameter]) -> tuple[tuple[str, str], ...]:
    """Return the scale of each parameter, as what programs are compiled for."""
    return tuple((name, p.scale) for name, p in known.items())


def natural(u: dict[str, Any], fixed: dict[str, Any], scales: tuple) -> dict[str, Any]:
    """Return all parameters in natural units, learned and fixed."""
    kinds = dict(scales)
    found = {name: _TO_NATURAL[kinds[name]](value) for name, value in u.items()}
    return {**found, **fixed}


def log_prior(u: dict[str, Any], priors: dict[str, tuple[Any, Any]]) -> jax.Array:
    """Return the log density of the normal priors, without constants."""
    total = jnp.zeros(())
    for name, value in u.items():
        mean, precision = priors[name]
        total = total - 0.5 * jnp.sum(precision * (value - mean) ** 2)
    return total


def priors_of(known: dict[str, Parameter]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return mean and precision of each prior; 0 is flat."""
    return {
        name: (np.asarray(p.mean, np.float64), np.asarray(p.sd**-2.0, np.float64))
        for name, p in known.items()
    }
