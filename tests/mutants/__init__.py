"""Planted bugs: the mistakes that people make in inference code, each as a test double.

A mutant is one piece of inference code that exists twice, right and with one mistake. The
validator must pass the first and fail the second.
"""

from tests.mutants import (
    composition,
    densities,
    hamiltonian,
    involutions,
    metropolis,
    nested,
    numerics,
    resampling,
    slice_and_multiple_try,
    smoothing,
    weights,
)

_FAMILIES = (
    densities,
    metropolis,
    involutions,
    hamiltonian,
    slice_and_multiple_try,
    composition,
    resampling,
    weights,
    smoothing,
    nested,
    numerics,
)
MUTANTS = tuple(
    sorted(
        (mutant for family in _FAMILIES for mutant in family.MUTANTS),
        key=lambda mutant: mutant.number,
    )
)
