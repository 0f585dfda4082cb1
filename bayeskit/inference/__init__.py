"""The functional layer: blocks, kernels, laws, algorithms."""

from bayeskit.inference import random
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc
from bayeskit.inference.blocks import (
    Block,
    adapt,
    custom,
    extend,
    move,
    resample,
    run,
    scan,
    schedule,
    spawn,
    until,
    weigh,
    when,
)
from bayeskit.inference.kernels import (
    HMC,
    MALA,
    DiscreteMetropolis,
    Independent,
    Kernel,
    NoUTurn,
    RandomWalk,
    StepInfo,
    Tuning,
)
from bayeskit.inference.law import Law, LawKind, Measure, Tagged
from bayeskit.inference.lineage import Lineage
from bayeskit.inference.measure import (
    Density,
    FeynmanKac,
    PointState,
    Target,
    TemperedPath,
    TemperingStage,
)
from bayeskit.inference.population import Population, effective_sample_size, reweigh

__all__ = [
    "HMC",
    "MALA",
    "Block",
    "Density",
    "DiscreteMetropolis",
    "FeynmanKac",
    "Independent",
    "Kernel",
    "Law",
    "LawKind",
    "Lineage",
    "Measure",
    "NoUTurn",
    "PointState",
    "Population",
    "RandomWalk",
    "StepInfo",
    "Tagged",
    "Target",
    "TemperedPath",
    "TemperingStage",
    "Tuning",
    "adapt",
    "custom",
    "effective_sample_size",
    "extend",
    "move",
    "random",
    "resample",
    "reweigh",
    "run",
    "scan",
    "schedule",
    "spawn",
    "tempered_smc",
    "until",
    "waste_free_smc",
    "weigh",
    "when",
]
