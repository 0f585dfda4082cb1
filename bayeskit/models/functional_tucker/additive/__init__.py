"""All additive terms as one Gaussian block, inferred jointly and exactly."""

from bayeskit.models.functional_tucker.additive.block import (
    AdditivePosterior,
    additive_posterior,
    centred_function_moments,
    function_moments,
    predict_rows,
    row_moments,
    sample_rows,
)
from bayeskit.models.functional_tucker.additive.design import (
    AdditiveDesign,
    additive_design,
    new_design,
)
from bayeskit.models.functional_tucker.additive.evidence import log_evidence

__all__ = [
    "AdditiveDesign",
    "AdditivePosterior",
    "additive_design",
    "additive_posterior",
    "centred_function_moments",
    "function_moments",
    "log_evidence",
    "new_design",
    "predict_rows",
    "row_moments",
    "sample_rows",
]
