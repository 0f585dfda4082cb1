"""The functional layer: blocks, kernels, laws, algorithms."""

from bayeskit.inference import random
from bayeskit.inference.algorithms.abc_smc import abc_smc
from bayeskit.inference.algorithms.auxiliary import auxiliary_particle_filter
from bayeskit.inference.algorithms.backward_sampling import backward_sampling, genealogy
from bayeskit.inference.algorithms.conditional_smc import conditional_smc
from bayeskit.inference.algorithms.controlled import (
    GaussianDynamics,
    LogQuadratic,
    controlled_filter,
)
from bayeskit.inference.algorithms.correlated_marginal import correlated_pmmh
from bayeskit.inference.algorithms.fixed_lag import LaggedParticles, fixed_lag
from bayeskit.inference.algorithms.guided import guided_model
from bayeskit.inference.algorithms.ibis import ibis
from bayeskit.inference.algorithms.islands import island_filter, island_model, join_islands
from bayeskit.inference.algorithms.missing import ignore_missing
from bayeskit.inference.algorithms.mixture_kalman import (
    KalmanParticle,
    LinearGaussian,
    mixture_kalman_model,
)
from bayeskit.inference.algorithms.nested_sampling import (
    nested_sampling,
    nested_sampling_at_levels,
)
from bayeskit.inference.algorithms.nested_smc import (
    nested_smc_model,
    random_weight_model,
    weighted_draw_model,
)
from bayeskit.inference.algorithms.paris import AdditiveParticle, paris
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.algorithms.particle_gibbs import particle_gibbs
from bayeskit.inference.algorithms.particle_marginal import pmmh
from bayeskit.inference.algorithms.persistent_sampling import persistent_sampling
from bayeskit.inference.algorithms.resample_move import (
    annealed_importance_sampling,
    resample_move,
)
from bayeskit.inference.algorithms.resample_move_filter import resample_move_filter
from bayeskit.inference.algorithms.smc_squared import smc2
from bayeskit.inference.algorithms.sqmc import sqmc
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc
from bayeskit.inference.algorithms.twisted import twisted_model
from bayeskit.inference.algorithms.two_filter import InformationFilter, two_filter
from bayeskit.inference.blocks import (
    Block,
    adapt,
    conditional_ancestors,
    custom,
    extend,
    follow,
    freeze,
    move,
    persist,
    remember,
    renew,
    resample,
    resample_metropolis,
    resample_threshold,
    resample_transport,
    reserve,
    run,
    scan,
    schedule,
    spawn,
    until,
    weigh,
    when,
)
from bayeskit.inference.collapse import check_collapse
from bayeskit.inference.estimates import choose
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.kernels import (
    GHMC,
    HMC,
    MALA,
    PCN,
    Barker,
    DelayedRejection,
    DiscreteGibbs,
    DiscreteMetropolis,
    EllipticalSlice,
    Independent,
    InfinityMALA,
    Kernel,
    LocallyInformed,
    MomentumState,
    MultipleTry,
    NormalPrior,
    NoUTurn,
    RandomWalk,
    Slice,
    StepInfo,
    Tuning,
    UnadjustedLangevin,
    UniformOther,
    metropolis,
    not_usable,
)
from bayeskit.inference.law import Law, LawKind, Measure, Tagged
from bayeskit.inference.lineage import Lineage
from bayeskit.inference.maps import Bijector, Involution
from bayeskit.inference.measure import (
    Density,
    Path,
    PointState,
    Target,
    TemperedPath,
    TemperingStage,
)
from bayeskit.inference.paths import (
    ABCMove,
    DataPath,
    LevelPath,
    TolerancePath,
    geometric_bridge,
)
from bayeskit.inference.population import History, Population, effective_sample_size, reweigh
from bayeskit.inference.state_space import Rows, StateSpaceModel, StateSpaceTarget
from bayeskit.inference.transitions import (
    Auxiliary,
    MarginalState,
    Proposal,
    Transition,
    chain,
    correlated_pseudo_marginal,
    crank_nicolson,
    cycle,
    gibbs,
    mixture,
    palindrome,
    pseudo_marginal,
    random_walk,
    repeat,
    transition,
)

__all__ = [
    "GHMC",
    "HMC",
    "MALA",
    "PCN",
    "ABCMove",
    "AdditiveParticle",
    "Auxiliary",
    "Barker",
    "Bijector",
    "Block",
    "DataPath",
    "DelayedRejection",
    "Density",
    "DiscreteGibbs",
    "DiscreteMetropolis",
    "EllipticalSlice",
    "FeynmanKac",
    "GaussianDynamics",
    "History",
    "Independent",
    "InfinityMALA",
    "InformationFilter",
    "Involution",
    "KalmanParticle",
    "Kernel",
    "LaggedParticles",
    "Law",
    "LawKind",
    "LevelPath",
    "Lineage",
    "LinearGaussian",
    "LocallyInformed",
    "LogQuadratic",
    "MarginalState",
    "Measure",
    "MomentumState",
    "MultipleTry",
    "NoUTurn",
    "NormalPrior",
    "Path",
    "PointState",
    "Population",
    "Proposal",
    "RandomWalk",
    "Rows",
    "Slice",
    "StateSpaceModel",
    "StateSpaceTarget",
    "StepInfo",
    "Tagged",
    "Target",
    "TemperedPath",
    "TemperingStage",
    "TolerancePath",
    "Transition",
    "Tuning",
    "UnadjustedLangevin",
    "UniformOther",
    "abc_smc",
    "adapt",
    "annealed_importance_sampling",
    "auxiliary_particle_filter",
    "backward_sampling",
    "chain",
    "check_collapse",
    "choose",
    "conditional_ancestors",
    "conditional_smc",
    "controlled_filter",
    "correlated_pmmh",
    "correlated_pseudo_marginal",
    "crank_nicolson",
    "custom",
    "cycle",
    "effective_sample_size",
    "extend",
    "fixed_lag",
    "follow",
    "freeze",
    "genealogy",
    "geometric_bridge",
    "gibbs",
    "guided_model",
    "ibis",
    "ignore_missing",
    "island_filter",
    "island_model",
    "join_islands",
    "metropolis",
    "mixture",
    "mixture_kalman_model",
    "move",
    "nested_sampling",
    "nested_sampling_at_levels",
    "nested_smc_model",
    "not_usable",
    "palindrome",
    "paris",
    "particle_filter",
    "particle_gibbs",
    "persist",
    "persistent_sampling",
    "pmmh",
    "pseudo_marginal",
    "random",
    "random_walk",
    "random_weight_model",
    "remember",
    "renew",
    "repeat",
    "resample",
    "resample_metropolis",
    "resample_move",
    "resample_move_filter",
    "resample_threshold",
    "resample_transport",
    "reserve",
    "reweigh",
    "run",
    "scan",
    "schedule",
    "smc2",
    "spawn",
    "sqmc",
    "tempered_smc",
    "transition",
    "twisted_model",
    "two_filter",
    "until",
    "waste_free_smc",
    "weigh",
    "weighted_draw_model",
    "when",
]
