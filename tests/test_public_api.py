"""The public names, so that a change of them is a visible line of a diff."""

import importlib

import pytest

import bayeskit as bk

PUBLIC = {
    "bayeskit": """BayesianModel EnsembleHMC FeynmanKac NUTS ParallelTempering Posterior Report
        SMC Target accel errors inference load models validate validation""",
    "bayeskit.inference": """
        AdditiveParticle Barker Bijector Block DelayedRejection Density DiscreteGibbs
        DiscreteMetropolis EllipticalSlice FeynmanKac GHMC HMC History Independent InfinityMALA
        InformationFilter Involution KalmanParticle Kernel LaggedParticles Law LawKind Lineage
        LinearGaussian LocallyInformed MALA Measure MomentumState MultipleTry NoUTurn
        NormalPrior PCN Pair PointState Population RandomWalk Replicas Slice StepInfo Tagged
        Target TemperedPath TemperingStage Transition Tuning UnadjustedLangevin UnbiasedEstimate
        UniformOther adapt auxiliary_particle_filter backward_sampling birth_death chain
        check_collapse conditional_ancestors conditional_smc coupled coupled_metropolis_hastings
        coupled_random_walk custom cycle effective_sample_size exchange extend fixed_lag follow
        freeze genealogy gibbs guided_model ignore_missing involutive maximal_categorical
        metropolis metropolis_hastings mixture mixture_kalman_model move not_usable palindrome
        parallel_tempering paris particle_filter particle_gibbs product random reflected_normal
        remember repeat resample resample_metropolis resample_threshold resample_transport
        reversible_jump reversible_jump_mcmc reweigh run rungs scan schedule slot spawn
        tempered_smc transition two_filter unbiased_mcmc until walk_within waste_free_smc weigh
        when""",
    "bayeskit.validation": """Atoms BatteryModel Check Enumeration Level Power Report
        SequentialPlan SequentialResult SteinTest TwoSampleTest battery enumerate_paths
        invariance_discrepancy key_reuse_check rank_test sequential_test stein_test
        symmetric_p_value two_sample_test validate weighting_discrepancy""",
    "bayeskit.models": "BayesianModel",
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
