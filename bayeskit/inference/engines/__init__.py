"""Engines: settings with ``run(target, data, key) -> Posterior``."""

from bayeskit.inference.engines.ensemble_hmc import EnsembleHMC
from bayeskit.inference.engines.nuts import NUTS
from bayeskit.inference.engines.parallel_tempering import ParallelTempering
from bayeskit.inference.engines.particle_filter import ParticleFilter
from bayeskit.inference.engines.particle_gibbs import ParticleGibbs
from bayeskit.inference.engines.pmmh import PMMH
from bayeskit.inference.engines.smc import SMC
from bayeskit.inference.engines.smc2 import SMC2

__all__ = [
    "NUTS",
    "PMMH",
    "SMC",
    "SMC2",
    "EnsembleHMC",
    "ParallelTempering",
    "ParticleFilter",
    "ParticleGibbs",
]
