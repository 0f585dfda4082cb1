"""Bayesian inference from blocks that compose, with a validator that checks them.

The names below are loaded when they are first used, so that ``import bayeskit`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> module that defines it.
_PUBLIC = {
    "BayesianModel": "bayeskit.models.bayesian",
    "BoxCox": "bayeskit.models.functional_tucker",
    "DSLRegressor": "bayeskit.models.dsl",
    "DistributionTransformer": "bayeskit.models.distribution_transformer",
    "EnsembleHMC": "bayeskit.inference.engines",
    "FeynmanKac": "bayeskit.inference.feynman_kac",
    "FunctionalCP": "bayeskit.models.functional_tucker",
    "FunctionalTucker": "bayeskit.models.functional_tucker",
    "GaussianMixture": "bayeskit.models.distribution_transformer",
    "GroupMeanEffect": "bayeskit.models.functional_tucker",
    "KnowledgeTracer": "bayeskit.models.knowledge_tracing",
    "MainEffect": "bayeskit.models.functional_tucker",
    "ManyFits": "bayeskit.models.many_fits",
    "MarkovGPRegressor": "bayeskit.models.markov_gp",
    "NUTS": "bayeskit.inference.engines",
    "ParallelTempering": "bayeskit.inference.engines",
    "PMMH": "bayeskit.inference.engines",
    "ParticleFilter": "bayeskit.inference.engines",
    "ParticleGibbs": "bayeskit.inference.engines",
    "Posterior": "bayeskit.inference.posterior",
    "Report": "bayeskit.validation",
    "SMC": "bayeskit.inference.engines",
    "SMC2": "bayeskit.inference.engines",
    "StateSpaceModel": "bayeskit.inference.state_space",
    "Target": "bayeskit.inference.measure",
    "WithinGroup": "bayeskit.models.functional_tucker",
    "fit_many": "bayeskit.models.many_fits",
    "load": "bayeskit.files",
    "on": "bayeskit.models.functional_tucker",
    "validate": "bayeskit.validation",
}
_ROOMS = (
    "accel",
    "datasets",
    "errors",
    "inference",
    "interop",
    "models",
    "plots",
    "validation",
)

__all__ = [
    "NUTS",
    "PMMH",
    "SMC",
    "SMC2",
    "BayesianModel",
    "BoxCox",
    "DSLRegressor",
    "DistributionTransformer",
    "EnsembleHMC",
    "FeynmanKac",
    "FunctionalCP",
    "FunctionalTucker",
    "GaussianMixture",
    "GroupMeanEffect",
    "KnowledgeTracer",
    "MainEffect",
    "ManyFits",
    "MarkovGPRegressor",
    "ParallelTempering",
    "ParticleFilter",
    "ParticleGibbs",
    "Posterior",
    "Report",
    "StateSpaceModel",
    "Target",
    "WithinGroup",
    "accel",
    "datasets",
    "errors",
    "fit_many",
    "inference",
    "interop",
    "load",
    "models",
    "on",
    "plots",
    "validate",
    "validation",
]

if TYPE_CHECKING:
    from bayeskit import (
        accel,
        datasets,
        errors,
        inference,
        interop,
        models,
        plots,
        validation,
    )
    from bayeskit.files import load
    from bayeskit.inference.engines import (
        NUTS,
        PMMH,
        SMC,
        SMC2,
        EnsembleHMC,
        ParallelTempering,
        ParticleFilter,
        ParticleGibbs,
    )
    from bayeskit.inference.feynman_kac import FeynmanKac
    from bayeskit.inference.measure import Target
    from bayeskit.inference.posterior import Posterior
    from bayeskit.inference.state_space import StateSpaceModel
    from bayeskit.models.bayesian import BayesianModel
    from bayeskit.models.distribution_transformer import (
        DistributionTransformer,
        GaussianMixture,
    )
    from bayeskit.models.dsl import DSLRegressor
    from bayeskit.models.functional_tucker import (
        BoxCox,
        FunctionalCP,
        FunctionalTucker,
        GroupMeanEffect,
        MainEffect,
        WithinGroup,
        on,
    )
    from bayeskit.models.knowledge_tracing import KnowledgeTracer
    from bayeskit.models.many_fits import ManyFits, fit_many
    from bayeskit.models.markov_gp import MarkovGPRegressor
    from bayeskit.validation import Report
    from bayeskit.validation import validate as validate  # type: ignore[no-redef]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"bayeskit.{name}")
    else:
        raise AttributeError(f"module 'bayeskit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
