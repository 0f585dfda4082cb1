"""Load what estimators and results saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayeskit import container

__all__ = ["load"]


def load(path: str | Path, *, model: Any = None) -> Any:
    """Return the estimator or posterior that was saved at ``path``.

    Parameters
    ----------
    path : str or Path
    model : callable, optional
        The model of a saved estimator, which the file does not hold. Without it everything
        but predictions works. Of a DistributionTransformer, the simulator.

    Raises
    ------
    CorruptFileError
        If the file is not one of ours or was changed; no code in it is ever run.
    """
    read = container.read_container(
        path,
        kinds={"BayesianModel", "DistributionTransformer", "MarkovGPRegressor", "Posterior"},
    )
    if read.kind == "Posterior":
        from bayeskit.inference.posterior import Posterior

        return Posterior.unpack(read.parameters, read.arrays)
    if read.kind == "MarkovGPRegressor":
        from bayeskit.models.markov_gp import MarkovGPRegressor

        return MarkovGPRegressor._from_container(read)
    if read.kind == "DistributionTransformer":
        from bayeskit.models.distribution_transformer import DistributionTransformer, saving

        return saving.from_container(DistributionTransformer, read, model)
    from bayeskit.models.bayesian import BayesianModel

    return BayesianModel._from_container(read, model)
