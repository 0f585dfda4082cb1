"""Engines: settings with ``run(target, data, key) -> Posterior``."""

from bayeskit.inference.engines.ensemble_hmc import EnsembleHMC
from bayeskit.inference.engines.nuts import NUTS
from bayeskit.inference.engines.parallel_tempering import ParallelTempering
from bayeskit.inference.engines.smc import SMC

__all__ = ["NUTS", "SMC", "EnsembleHMC", "ParallelTempering"]
