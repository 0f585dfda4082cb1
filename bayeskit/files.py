"""Load what estimators and results saved."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bayeskit import container

__all__ = ["load"]

# What a file may hold -> module of its class.
_KINDS = {
    "BayesianModel": "bayeskit.models.bayesian",
    "DistributionTransformer": "bayeskit.models.distribution_transformer",
    "FunctionalCP": "bayeskit.models.functional_tucker",
    "FunctionalTucker": "bayeskit.models.functional_tucker",
    "KnowledgeTracer": "bayeskit.models.knowledge_tracing",
    "MarkovGPRegressor": "bayeskit.models.markov_gp",
    "Posterior": "bayeskit.inference.posterior",
}
_WITH_MODEL = {"BayesianModel", "DistributionTransformer"}


def load(path: str | Path, *, model: Any = None) -> Any:
    """Return the estimator or posterior that was saved at ``path``.

    Parameters
    ----------
    path : str or Path
    model : callable, optional
        What the file does not hold: the model of a saved :class:`~bayeskit.BayesianModel`,
        without which everything but predictions works, or the simulator of a
        :class:`~bayeskit.DistributionTransformer`.

    Returns
    -------
    estimator or Posterior
        Of the class that was saved.

    Raises
    ------
    CorruptFileError
        If the file is not one of ours or was changed; no code in it is ever run.
    """
    read = container.read_container(path, kinds=_KINDS)
    kind: Any = getattr(importlib.import_module(_KINDS[read.kind]), read.kind)
    if read.kind == "Posterior":
        return kind.unpack(read.parameters, read.arrays)
    if read.kind in _WITH_MODEL:
        return kind._from_container(read, model)
    return kind._from_container(read)
