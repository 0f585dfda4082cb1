"""Weights, resampling and gathering on torch tensors, with the names of :mod:`bayeskit.accel`.

Results stay on the device and keep the dtype of their input. For the same float32 log-weights
and the same uniforms the indices are those of JAX, bit for bit, on every device. On CUDA
tensors the Triton kernels run where Triton is installed; the choice is that of
:func:`bayeskit.accel.backend`, with plain torch operations in the place of XLA.

Bad input raises as in :mod:`bayeskit.accel` outside ``jit``. That looks at values, so on a GPU
each call waits for its result.
"""

import importlib.util

from bayeskit.errors import MissingDependencyError

if importlib.util.find_spec("torch") is None:
    raise MissingDependencyError(
        "bayeskit.accel.torch needs torch, which is not installed: "
        "pip install 'bayeskit[torch]'"
    )

from bayeskit.accel.torch.gather import resample_and_gather, take_particles
from bayeskit.accel.torch.offspring import (
    cumulative_offspring,
    offspring_to_ancestors,
    scaled_cdf,
)
from bayeskit.accel.torch.resampling import (
    Ancestors,
    multinomial,
    residual,
    residual_multinomial,
    stratified,
    systematic,
)
from bayeskit.accel.torch.weights import (
    Weights,
    effective_sample_size,
    log_mean_exp,
    normalize,
    temper_step,
)

__all__ = [
    "Ancestors",
    "Weights",
    "cumulative_offspring",
    "effective_sample_size",
    "log_mean_exp",
    "multinomial",
    "normalize",
    "offspring_to_ancestors",
    "resample_and_gather",
    "residual",
    "residual_multinomial",
    "scaled_cdf",
    "stratified",
    "systematic",
    "take_particles",
    "temper_step",
]
