"""Algorithms, each a few lines of blocks."""

from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc

__all__ = ["particle_filter", "tempered_smc", "waste_free_smc"]
