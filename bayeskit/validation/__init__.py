"""The validator, which checks whether a block keeps the law that it states."""

from bayeskit.validation.battery import BatteryModel, battery
from bayeskit.validation.exact import (
    Atoms,
    Enumeration,
    enumerate_paths,
    invariance_discrepancy,
    weighting_discrepancy,
)
from bayeskit.validation.paired import Level
from bayeskit.validation.pointwise import key_reuse_check
from bayeskit.validation.ranks import rank_test
from bayeskit.validation.report import Check, Power, Report
from bayeskit.validation.same_law import TwoSampleTest, two_sample_test
from bayeskit.validation.sequential import (
    SequentialPlan,
    SequentialResult,
    sequential_test,
    symmetric_p_value,
)
from bayeskit.validation.stein import SteinTest, stein_test
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
    "SteinTest",
    "TwoSampleTest",
    "battery",
    "enumerate_paths",
    "invariance_discrepancy",
    "key_reuse_check",
    "rank_test",
    "sequential_test",
    "stein_test",
    "symmetric_p_value",
    "two_sample_test",
    "validate",
    "weighting_discrepancy",
]
