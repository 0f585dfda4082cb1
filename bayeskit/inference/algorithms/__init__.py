"""Algorithms, each a few lines of blocks."""

from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc

__all__ = ["tempered_smc", "waste_free_smc"]
