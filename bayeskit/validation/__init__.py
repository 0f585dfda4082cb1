"""The validator, which checks whether a block keeps the law that it states."""

from bayeskit.validation.battery import BatteryModel, battery
from bayeskit.validation.exact import (
    Atoms,
    Enumeration,
    enumerate_paths,
    invariance_discrepancy,
    weighting_discrepancy,
)
from bayeskit.validation.report import Check, Power, Report
from bayeskit.validation.sequential import (
    SequentialPlan,
    SequentialResult,
    sequential_test,
    symmetric_p_value,
)
from bayeskit.validation.statistical import Level
from bayeskit.validation.validate import validate

__all__ = [
    "Atoms",
    "BatteryModel",
    "Check",
    "Enumeration",
    "Level",
    "Power",
    "Report",
    "SequentialPlan",
    "SequentialResult",
    "battery",
    "enumerate_paths",
    "invariance_discrepancy",
    "sequential_test",
    "symmetric_p_value",
    "validate",
    "weighting_discrepancy",
]
