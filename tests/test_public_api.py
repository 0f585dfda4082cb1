"""The public names, so that a change of them is a visible line of a diff."""

import importlib

import pytest

import bayeskit as bk

PUBLIC = {
    "bayeskit": """
        BayesianModel BoxCox DSLRegressor DistributionTransformer EnsembleHMC
        FeynmanKac FunctionalCP FunctionalTucker GaussianMixture GroupMeanEffect
        KnowledgeTracer MainEffect ManyFits MarkovGPRegressor NUTS PMMH ParallelTempering
        ParticleFilter ParticleGibbs Posterior Report SMC SMC2 StateSpaceModel Target
        WithinGroup accel datasets errors fit_many inference interop load models on plots
        validate validation""",
    "bayeskit.inference": """
        ABCMove AdditiveParticle Auxiliary Barker Bijector Block CheckpointFile DataPath
        DataTerms DelayedRejection Density DifferenceEstimate DiscreteGibbs
        DiscreteMetropolis EllipticalSlice FeynmanKac FittedProposal GHMC
        GaussianDynamics HMC History Independent InfinityMALA InformationFilter
        Involution KalmanParticle Kernel LaggedParticles Law LawKind LevelPath Lineage
        LinearGaussian LocallyInformed LogQuadratic LongRun LongRunSettings MALA
        MarginalState Measure MomentumState MovePlan MultipleTry NoUTurn NormalPrior PCN
        Pair Path PointState Population PriorProposal Proposal RandomWalk Replicas Rows Slice
        StateSpaceModel StateSpaceTarget StepInfo Tagged Target TemperedPath
        TemperingStage TolerancePath Transition Tuning UnadjustedLangevin
        UnbiasedEstimate UniformOther abc_smc adapt alive_filter
        annealed_importance_sampling auxiliary_particle_filter backward_sampling
        birth_death chain check_collapse choose conditional_ancestors conditional_smc
        controlled_filter correlated_pmmh correlated_pseudo_marginal coupled
        coupled_metropolis_hastings coupled_random_walk crank_nicolson custom cycle
        defensive_bridge draw_indices effective_sample_size exchange extend extend_alive
        fitted_random_walk fixed_lag follow freeze genealogy geometric_bridge gibbs
        guided_model ibis ignore_missing involutive island_filter island_model
        join_islands maximal_categorical metropolis metropolis_hastings mixture
        mixture_kalman_model move nested_sampling nested_sampling_at_levels
        nested_smc_model not_usable palindrome parallel_tempering paris particle_filter
        particle_gibbs persist persistent_sampling pmmh product pseudo_marginal random
        random_walk random_weight_model reflected_normal remember renew repeat resample
        resample_butterfly resample_in_groups resample_metropolis resample_move
        resample_move_filter resample_threshold resample_transport reserve
        reversible_jump reversible_jump_mcmc reweigh run rungs scan schedule
        sequential_importance_sampling sgld slot smc2 spawn spawn_alive sqmc
        student_bridge subsampling_hmc tempered_smc transition twisted_model two_filter
        unbiased_mcmc until untwist walk_within waste_free_smc weigh weighted_draw_model
        when""",
    "bayeskit.validation": """
        Atoms BatteryModel Check Enumeration Level Power Report SequentialPlan
        SequentialResult SteinTest TwoSampleTest battery enumerate_paths
        invariance_discrepancy key_reuse_check rank_test sequential_test stein_test
        symmetric_p_value two_sample_test validate weighting_discrepancy""",
    "bayeskit.models": """
        BayesianModel DSLRegressor DistributionTransformer Forecast FunctionalCP
        FunctionalTucker
        GaussianMixture KnowledgeTracer ManyFits MarkovGPRegressor StateSpaceEstimator
        fit_many""",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_names(module):
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == sorted(PUBLIC[module].split())
    for name in loaded.__all__:
        assert getattr(loaded, name).__doc__, f"{module}.{name} has no docstring"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'bayeskit' has no attribute 'smc'"):
        _ = bk.smc
    assert "SMC" in dir(bk)


def test_every_neighbour_is_found_by_its_name():
    for name in bk.interop.__all__:
        assert getattr(bk.interop, name).__name__ == f"bayeskit.interop.{name}"
    assert set(bk.interop.__all__) <= set(dir(bk.interop))
    with pytest.raises(AttributeError, match="no attribute 'stan'"):
        _ = bk.interop.stan
