"""Functional tensor models: terms, transforms of the target, estimators."""

from bayeskit.models.functional_tucker.cp import FunctionalCP
from bayeskit.models.functional_tucker.terms import (
    GroupMeanEffect,
    MainEffect,
    ModeKernel,
    WithinGroup,
    on,
)
from bayeskit.models.functional_tucker.transforms import BoxCox, Transform
from bayeskit.models.functional_tucker.tucker import FunctionalTucker

__all__ = [
    "BoxCox",
    "FunctionalCP",
    "FunctionalTucker",
    "GroupMeanEffect",
    "MainEffect",
    "ModeKernel",
    "Transform",
    "WithinGroup",
    "on",
]
