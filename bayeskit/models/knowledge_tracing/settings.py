"""Settings of a tracer: what they may be, and the model that they stand for."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from bayeskit.errors import BayeskitWarning
from bayeskit.models.knowledge_tracing.amortized.architecture import amortized_engine
from bayeskit.models.knowledge_tracing.graphs import NORMALISATIONS
from bayeskit.models.knowledge_tracing.rows import STUDY, Interactions, Labels
from bayeskit.models.knowledge_tracing.structure import Structure

__all__ = ["check_settings", "kc_labels", "structure_of", "warn_of_nothing"]

_TRAITS = {"none": (), "static": ("static",), "dynamic": ("static", "drift")}
_TRANSITIONS = ("exact", "frozen_parent")
_GAINS = {True: "saturating", "saturating": "saturating", "additive": "additive", False: None}


def check_settings(tracer: Any, engines: dict[str, Any]) -> None:
    """Refuse settings of a tracer that mean nothing.

    Parameters
    ----------
    tracer : KnowledgeTracer
    engines : dict
        What inference may be called.
    """
    for name in ("traits", "transition", "practice_gain", "normalise", "time_unit"):
        value = getattr(tracer, name)
        if not isinstance(value, str | bool | np.bool_):
            raise ValueError(f"{name} must be a name or a bool, got {value!r}")
    if tracer.traits not in _TRAITS:
        raise ValueError(f"traits must be one of {list(_TRAITS)}, got {tracer.traits!r}")
    if tracer.transition not in _TRANSITIONS:
        raise ValueError(f"transition must be one of {_TRANSITIONS}, got {tracer.transition!r}")
    if tracer.practice_gain not in _GAINS:
        raise ValueError(
            "practice_gain must be a bool, 'saturating' or 'additive', got "
            f"{tracer.practice_gain!r}"
        )
    is_name = isinstance(tracer.inference, str) and tracer.inference in engines
    is_engine = hasattr(tracer.inference, "infer") or amortized_engine(tracer.inference)
    if not is_name and not is_engine:
        raise ValueError(
            "inference must be 'adf', 'gibbs', 'smc2', 'amortized', LearnerGibbs(), "
            f"LearnerSMC2() or AmortizedVariational(), got {tracer.inference!r}"
        )
    for name, least in (("kc_scales", 1), ("version_scales", 0), ("num_steps", 0)):
        value = getattr(tracer, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    if not isinstance(tracer.batch_size, int) or tracer.batch_size < 1:
        raise ValueError(f"batch_size must be a whole number >= 1, got {tracer.batch_size!r}")
    for name in ("item_effects", "spacing", "jump_noise", "rate_change", "strict"):
        value = getattr(tracer, name)
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    if tracer.normalise not in NORMALISATIONS:
        raise ValueError(f"normalise must be one of {NORMALISATIONS}, got {tracer.normalise!r}")
    if not isinstance(tracer.parameters, dict | None):
        raise ValueError(
            f"parameters must be a dict of numbers by name, got {tracer.parameters!r}"
        )
    if not (_is_number(tracer.edge_probability) and 0 < tracer.edge_probability < 1):
        raise ValueError(
            f"edge_probability must lie in (0, 1), got {tracer.edge_probability!r}"
        )
    if not (_is_number(tracer.learning_rate) and 0 < tracer.learning_rate < np.inf):
        raise ValueError(
            f"learning_rate must be a positive number, got {tracer.learning_rate!r}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def kc_labels(n_kc: int | None) -> dict | None:
    """Return the components that there are by their number, if it is given."""
    if n_kc is None:
        return None
    if not isinstance(n_kc, int | np.integer) or n_kc < 1:
        raise ValueError(f"n_kc must be a whole number >= 1, got {n_kc!r}")
    return {k: k for k in range(int(n_kc))}


def warn_of_nothing(rows: Interactions, labels: Labels, *, by_name: bool) -> None:
    """Warn where there are no answers, and of components named by a graph without rows."""
    if (rows.outcome == STUDY).all():
        warnings.warn(
            "correct is missing in all rows: nothing is learned from answers",
            BayeskitWarning,
            stacklevel=3,
        )
    unseen = np.setdiff1d(np.arange(len(labels.kc)), rows.kc)
    if len(unseen) and by_name:
        names = [list(labels.kc)[code] for code in unseen.tolist()]
        warnings.warn(
            f"the component {names[0]!r} of graph ({len(names)} in all) has no rows in the "
            "table: is it spelled as there?",
            BayeskitWarning,
            stacklevel=3,
        )


def structure_of(tracer: Any, labels: Labels) -> Structure:
    """Return the terms of the model that the settings of a tracer stand for."""
    gains = _GAINS[tracer.practice_gain]
    has_graph = tracer.graph is not None
    num_versions = labels.num_versions if tracer.version_scales else 0
    return Structure(
        num_kc=len(labels.kc),
        num_items=len(labels.item),
        num_versions=num_versions,
        kc_scales=tracer.kc_scales,
        version_scales=tracer.version_scales if num_versions else 0,
        ability=_TRAITS[tracer.traits],
        item_effects=tracer.item_effects,
        practice=gains is not None,
        saturation=gains == "saturating",
        spacing=gains is not None and tracer.spacing,
        jump_noise=gains is not None and tracer.jump_noise,
        # Components that pull at one another share one clock.
        rate_change=tracer.rate_change and not has_graph,
        graph=has_graph,
        frozen_parent=has_graph and tracer.transition == "frozen_parent",
        learns_graph=isinstance(tracer.graph, str),
    )
