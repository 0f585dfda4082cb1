"""Engines: settings with ``run(target, data, key) -> Posterior``."""

from bayeskit.inference.engines.nuts import NUTS
from bayeskit.inference.engines.smc import SMC

__all__ = ["NUTS", "SMC"]
