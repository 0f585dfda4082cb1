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

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import bayeskit as bk
    >>> x = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    >>> y = np.array([0.1, 0.9, 1.1, np.nan, -0.8])
    >>> gp = bk.MarkovGPRegressor("matern32", random_state=0).fit(x, y)
    >>> path = pathlib.Path(tempfile.mkdtemp(), "gp.bkit")
    >>> gp.save(path)
    >>> loaded = bk.load(path)
    >>> type(loaded).__name__, float(np.abs(loaded.predict([2.5]) - gp.predict([2.5])).max())
    ('MarkovGPRegressor', 0.0)
    """
    read = container.read_container(path, kinds=_KINDS)
    kind: Any = getattr(importlib.import_module(_KINDS[read.kind]), read.kind)
    if read.kind == "Posterior":
        return kind.unpack(read.parameters, read.arrays)
    if read.kind in _WITH_MODEL:
        return kind._from_container(read, model)
    return kind._from_container(read)
