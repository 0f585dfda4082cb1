"""Functional tensor models: terms, transforms of the target, estimators."""

from bayeskit.models.functional_tucker.estimator import FunctionalCP
from bayeskit.models.functional_tucker.terms import (
    GroupMeanEffect,
    MainEffect,
    ModeKernel,
    WithinGroup,
    on,
)
from bayeskit.models.functional_tucker.transforms import BoxCox, Transform

__all__ = [
    "BoxCox",
    "FunctionalCP",
    "GroupMeanEffect",
    "MainEffect",
    "ModeKernel",
    "Transform",
    "WithinGroup",
    "on",
]
