"""Paths of measures beside the tempered one: data, tolerances, levels, and bridges."""

from bayeskit.inference.paths.data import DataPath
from bayeskit.inference.paths.defensive import defensive_bridge, student_bridge
from bayeskit.inference.paths.geometric import geometric_bridge
from bayeskit.inference.paths.levels import LevelPath
from bayeskit.inference.paths.tolerances import ABCMove, TolerancePath

__all__ = [
    "ABCMove",
    "DataPath",
    "LevelPath",
    "TolerancePath",
    "defensive_bridge",
    "geometric_bridge",
    "student_bridge",
]
