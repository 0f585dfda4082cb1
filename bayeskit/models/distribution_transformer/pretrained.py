"""Networks that come with the package, each with a report of how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bayeskit.models.distribution_transformer import saving
from bayeskit.models.distribution_transformer.likelihoods import LIKELIHOODS

__all__ = ["NETWORKS", "load_pretrained", "network_report"]

# Written by benchmarks/pretrained_networks.py.
NETWORKS = Path(__file__).parent / "networks"


def load_pretrained(cls: type, name: str) -> Any:
    """Return a trained estimator; see :meth:`DistributionTransformer.pretrained`."""
    _check_name(name)
    estimator = saving.load(cls, NETWORKS / f"{name}.bkit", LIKELIHOODS[name].simulator)
    estimator.report_ = network_report(name)
    return estimator


def network_report(name: str) -> dict[str, Any]:
    """Return what was found out about a network when it was trained."""
    _check_name(name)
    return json.loads((NETWORKS / f"{name}.json").read_text("utf-8"))


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name not in LIKELIHOODS:
        known = ", ".join(map(repr, LIKELIHOODS))
        raise ValueError(
            f"there is no pretrained network {name!r}, only {known}: for another likelihood, "
            "write a Simulator and call fit"
        )
