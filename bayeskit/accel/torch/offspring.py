"""The exact core of resampling on torch tensors: the integers of ``accel.offspring``."""

from __future__ import annotations

from typing import Any

import torch

from bayeskit.accel._checks import as_count
from bayeskit.accel.exponential import COEFFICIENTS, LARGEST_EXPONENT, SCALE, SHIFTS
from bayeskit.accel.offspring import _fractional_bits
from bayeskit.accel.torch._checks import (
    as_log_tensor,
    as_uniforms,
    largest,
    refuse_bad_weights,
)
from bayeskit.accel.torch._kernels import by_kernel_or_plain

__all__ = [
    "cumulative_offspring",
    "offspring_to_ancestors",
    "round_up_where_above",
    "scaled_cdf",
]


def scaled_cdf(log_weights: Any, num: int) -> torch.Tensor:
    r"""Return the cumulative weights, scaled so that the last is ``num`` exactly.

    .. math:: R_i = \text{num} \cdot \frac{\sum_{j \le i} w_j}{\sum_j w_j}

    See :func:`bayeskit.accel.scaled_cdf`: for float32 log-weights the result has the same bits.
    For float64 it uses torch's exponential function, whose last bit may be another than JAX's.

    Parameters
    ----------
    log_weights : (..., num_particles) tensor, real or -inf, any normalisation
    num : int

    Returns
    -------
    (..., num_particles) float64 tensor

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf.
    DegenerateWeightsError
        If all log-weights of a row are -inf.
    TypeError, ValueError
        For integer log-weights, no particles, or a number outside [0, 2**31).

    Notes
    -----
    O(N).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import scaled_cdf
    >>> scaled_cdf(torch.tensor([0.0, -torch.inf, 0.0, 0.0]), 6).tolist()
    [2.0, 2.0, 4.0, 6.0]
    """
    log_weights = as_log_tensor(log_weights, "log_weights").detach()
    num = as_count(num)
    maximum = largest(log_weights)
    refuse_bad_weights(log_weights, torch.isfinite(maximum[..., 0]), "log_weights")
    if num == 0:
        return torch.zeros_like(log_weights, dtype=torch.float64)
    bits = _fractional_bits(log_weights.shape[-1], num)
    plain = lambda x: _cdf_of_weights(_relative_weights(x, maximum), num, bits)
    if log_weights.dtype != torch.float32:
        return plain(log_weights)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        from bayeskit.accel.kernels.triton import cdf
        from bayeskit.accel.kernels.triton.launching import with_torch

        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return cdf.scaled_cdf(with_torch, rows, num, bits)[0].reshape(x.shape)

    return by_kernel_or_plain("scaled_cdf", kernel, plain, log_weights)


def _cdf_of_weights(
    weights: torch.Tensor, num: int, bits: tuple[int, int, int]
) -> torch.Tensor:
    total_bits, unit_bits, grid_bits = bits
    whole = torch.ceil(weights * 2.0**total_bits)
    total = whole.sum(-1, keepdim=True) * 2.0**-total_bits
    # Tensors by tensors: torch takes a number over a tensor for a product with a reciprocal,
    # which is rounded twice.
    in_units = weights * (torch.full_like(total, num * 2.0**unit_bits) / total)
    cumulative = torch.cumsum(in_units.to(torch.int64), -1)
    last = cumulative[..., -1:]
    scale = torch.full_like(total, num) / last.to(torch.float64)
    cdf = cumulative.to(torch.float64) * scale
    cdf = torch.round(cdf * 2.0**grid_bits) * 2.0**-grid_bits
    return torch.where(cumulative == last, float(num), cdf.clamp(max=float(num)))


def _relative_weights(log_weights: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    """Return exp(log_weights - maximum) in float64 as in ``accel.exponential``."""
    below = maximum.to(torch.float64) - log_weights.to(torch.float64)
    if log_weights.dtype != torch.float32:
        return torch.exp(-below)
    steps = (below * SCALE).clamp(max=LARGEST_EXPONENT * 2.0**32).to(torch.int64)
    fraction = steps & 0xFFFFFFFF

    def times_fraction(value: torch.Tensor | int, shift: int) -> torch.Tensor:
        # The product of two 32-bit numbers fills 64 bits, the one of the sign among them; the
        # mask takes off its copies, which a shift of signed numbers brings in.
        product = value * fraction
        return product.bitwise_right_shift_(shift).bitwise_and_(2 ** (64 - shift) - 1)

    value: torch.Tensor | int = COEFFICIENTS[-1]
    for coefficient, shift in zip(COEFFICIENTS[-2::-1], SHIFTS[::-1], strict=True):
        value = times_fraction(value, shift).neg_().add_(coefficient)
    significand = times_fraction(value, 31).neg_().add_(2**35).sub_(fraction << 2)
    power = ((1023 - 35 - (steps >> 32)) << 52).view(torch.float64)
    return significand.to(torch.float64) * power


def cumulative_offspring(log_weights: Any, u: Any, num: int) -> torch.Tensor:
    r"""Return the cumulative numbers of offspring of systematic resampling.

    .. math:: O_i = \lceil R_i - u \rceil = \#\{m : m + u < R_i\}

    Parameters
    ----------
    log_weights : (..., num_particles) tensor, real or -inf, any normalisation
    u : (...) tensor in [0, 1), or a number for one row
    num : int

    Returns
    -------
    (..., num_particles) int32 tensor, non-decreasing, its last element is ``num``

    Raises
    ------
    InvalidWeightsError, DegenerateWeightsError, TypeError, ValueError
        As :func:`scaled_cdf`, and for ``u`` outside [0, 1) or of another shape.

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import cumulative_offspring
    >>> cumulative_offspring(torch.zeros(4), 0.5, 6).tolist()
    [1, 3, 4, 6]
    """
    cdf = scaled_cdf(log_weights, num)
    u = as_uniforms(u, tuple(cdf.shape[:-1]), cdf.device)
    return round_up_where_above(cdf, u[..., None])


def round_up_where_above(values: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return ceil(values - u) as int32 for values >= 0; no subtraction is rounded."""
    whole = values.to(torch.int32)
    return whole + (u < values - whole).to(torch.int32)


def offspring_to_ancestors(cumulative: Any, num: int) -> torch.Tensor:
    r"""Return the sorted ancestors that belong to cumulative numbers of offspring.

    .. math:: a_m = \#\{i : O_i \le m\}, \qquad m = 0, \dots, \text{num} - 1

    Parameters
    ----------
    cumulative : (..., num_particles) integer tensor
        Non-decreasing, its last element is ``num``. Neither is checked.
    num : int

    Returns
    -------
    (..., num) int32 tensor, non-decreasing

    Raises
    ------
    TypeError, ValueError
        For floats, no particles, or a number outside [0, 2**31).

    Notes
    -----
    O(N + num).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import offspring_to_ancestors
    >>> offspring_to_ancestors(torch.tensor([2, 2, 5]), 5).tolist()
    [0, 0, 2, 2, 2]
    """
    cumulative = torch.as_tensor(cumulative)
    if cumulative.is_floating_point() or cumulative.dtype == torch.bool:
        raise TypeError(f"cumulative must be integers, got dtype {cumulative.dtype}")
    if cumulative.ndim == 0 or cumulative.shape[-1] == 0:
        raise ValueError(
            f"cumulative must have at least 1 particle, got shape {tuple(cumulative.shape)}"
        )
    num = as_count(num)
    leading = cumulative.shape[:-1]
    rows = cumulative.reshape(-1, cumulative.shape[-1]).to(torch.int32).contiguous()
    if num == 0:
        return rows.new_zeros((*leading, 0))

    def plain(x: torch.Tensor) -> torch.Tensor:
        # The last particle, and dead ones before it, count at num, which is left out.
        counts = x.new_zeros(x.shape[0], num + 1)
        counts.scatter_add_(1, x.to(torch.int64), torch.ones_like(x))
        return torch.cumsum(counts[:, :num], 1, dtype=torch.int32)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        from bayeskit.accel.kernels.triton import search
        from bayeskit.accel.kernels.triton.launching import with_torch

        return search.offspring_to_ancestors(with_torch, x, num)

    found = by_kernel_or_plain("offspring_to_ancestors", kernel, plain, rows)
    return found.reshape(*leading, num)
