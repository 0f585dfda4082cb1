"""Sums over weights given by their logarithms, and the next tempering step, in torch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from bayeskit.accel.torch._checks import (
    as_log_tensor,
    largest,
    refuse_bad_weights,
    refuse_invalid_values,
)
from bayeskit.accel.torch._kernels import by_kernel_or_plain
from bayeskit.errors import DegenerateWeightsError

__all__ = ["Weights", "effective_sample_size", "log_mean_exp", "normalize", "temper_step"]


class Weights(NamedTuple):
    """Normalised weights and their summaries; see :func:`normalize`.

    Parameters
    ----------
    weights : (..., num_particles) tensor, they add up to 1
    log_sum : (...) tensor
        Logarithm of the sum of the unnormalised weights.
    log_mean : (...) tensor
        Logarithm of their mean.
    effective_sample_size : (...) tensor in [1, num_particles]
    max : (...) tensor
        The largest log-weight.
    """

    weights: torch.Tensor
    log_sum: torch.Tensor
    log_mean: torch.Tensor
    effective_sample_size: torch.Tensor
    max: torch.Tensor


def normalize(log_weights: Any, *, nan: str = "refuse") -> Weights:
    r"""Normalise weights and return them with all their usual summaries.

    .. math:: W_i = \frac{w_i}{\sum_j w_j}, \qquad
        \text{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}, \qquad
        w_i = \exp(\text{log\_weights}_i)

    Parameters
    ----------
    log_weights : (..., num_particles) tensor, real or -inf, any normalisation
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    Weights
        Of the dtype of the log-weights, float32 at least.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf.
    DegenerateWeightsError
        If all log-weights of a row are -inf.
    TypeError, ValueError
        For integer log-weights, a scalar, or no particles.

    Notes
    -----
    O(N). ``log_sum`` is differentiable; its gradient is ``weights``.

    References
    ----------
    Kong, Liu & Wong (1994), for the effective sample size.

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import normalize
    >>> normalize(torch.tensor([1.0, 1.0, 2.0]).log()).weights.tolist()
    [0.25, 0.25, 0.5]
    """
    log_weights = as_log_tensor(log_weights, "log_weights", nan)
    maximum, total, size = _sums(log_weights)
    refuse_bad_weights(log_weights, torch.isfinite(maximum), "log_weights")
    num_particles = log_weights.shape[-1]
    return Weights(
        weights=torch.exp(log_weights - maximum[..., None]) / total[..., None],
        log_sum=maximum + torch.log(total),
        # Not log_sum - log N: the rounding of log N would have one sign at every step.
        log_mean=maximum + torch.log(total / num_particles),
        effective_sample_size=size,
        max=maximum,
    )


def _sums(log_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the maximum, the sum of weights relative to it, the effective sample size."""
    num_particles = log_weights.shape[-1]

    def plain(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maximum = largest(x).detach()
        origin = torch.where(torch.isfinite(maximum), maximum, 0.0)
        weights = torch.exp(x - origin)
        return maximum[..., 0], weights.sum(-1), (weights**2).sum(-1)

    def kernel(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from bayeskit.accel.kernels.triton import summary
        from bayeskit.accel.kernels.triton.launching import with_torch

        rows = x.reshape(-1, num_particles).contiguous()
        dtype = str(x.dtype).removeprefix("torch.")
        sums = summary.weight_sums(with_torch, rows, dtype)
        return tuple(s.reshape(x.shape[:-1]) for s in sums)

    if log_weights.requires_grad:
        maximum, total, squares = plain(log_weights)
    else:
        maximum, total, squares = by_kernel_or_plain("normalize", kernel, plain, log_weights)
    size = (total**2 / squares).clamp(1, num_particles)
    return maximum, total.to(log_weights.dtype), size.to(log_weights.dtype)


def log_mean_exp(log_values: Any) -> torch.Tensor:
    r"""Return the logarithm of the mean of numbers given by their logarithms.

    .. math:: \log \frac{1}{N} \sum_i \exp(\text{log\_values}_i)

    Parameters
    ----------
    log_values : (..., num_particles) tensor, real or -inf

    Returns
    -------
    (...) tensor; -inf where all are -inf, NaN or +inf where a value is

    Raises
    ------
    TypeError, ValueError
        For integers, a scalar, or an empty last axis.

    Notes
    -----
    O(N). Differentiable.

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import log_mean_exp
    >>> float(log_mean_exp(torch.tensor([1000.0, 1000.0])))
    1000.0
    """
    log_values = as_log_tensor(log_values, "log_values")
    maximum, total, _ = _sums(log_values)
    log_mean = maximum + torch.log(total / log_values.shape[-1])
    return torch.where(torch.isfinite(maximum), log_mean, maximum)


def effective_sample_size(log_weights: Any, *, nan: str = "refuse") -> torch.Tensor:
    r"""Return the effective number of particles of a weighted sample.

    .. math:: \text{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

    Parameters
    ----------
    log_weights : (..., num_particles) tensor, real or -inf, any normalisation
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    (...) tensor in [1, num_particles]; NaN where all log-weights are -inf or one is NaN or +inf

    Raises
    ------
    TypeError, ValueError
        For integers, a scalar, or no particles.

    Notes
    -----
    O(N).

    References
    ----------
    Kong, Liu & Wong (1994).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import effective_sample_size
    >>> float(effective_sample_size(torch.zeros(4)))
    4.0
    """
    maximum, _, size = _sums(as_log_tensor(log_weights, "log_weights", nan))
    return torch.where(torch.isfinite(maximum), size, torch.nan)


def temper_step(
    log_likelihood: Any, log_weights: Any, current: Any, target: Any, *, nan: str = "refuse"
) -> torch.Tensor:
    r"""Return the next inverse temperature: the largest step that keeps enough particles.

    See :func:`bayeskit.accel.temper_step`, whose rules hold here.

    Parameters
    ----------
    log_likelihood : (..., num_particles) tensor, real or -inf
        -inf means likelihood zero.
    log_weights : (..., num_particles) tensor, real or -inf, any normalisation
    current : (...) tensor in [0, 1], or a number
    target : (...) tensor in (0, 1), or a number
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-likelihood of NaN counts as likelihood zero.

    Returns
    -------
    (...) tensor
        Larger than ``current`` and at most 1.

    Raises
    ------
    InvalidWeightsError
        If a log-likelihood or log-weight is NaN or +inf.
    DegenerateWeightsError
        If no particle has positive weight and finite log-likelihood.
    ValueError
        For ``current`` or ``target`` out of range, or shapes that differ.

    Notes
    -----
    O(30 N) in float32, O(48 N) in float64: bisection over the logarithm of the step.

    References
    ----------
    Jasra, Stephens, Doucet & Tsagaris (2011), for the criterion.

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import temper_step
    >>> round(float(temper_step(torch.tensor([0.0, -8.0]), torch.zeros(2), 0.0, 0.6)), 4)
    0.2866
    """
    log_likelihood = as_log_tensor(log_likelihood, "log_likelihood", nan).detach()
    log_weights = as_log_tensor(log_weights, "log_weights").detach()
    if log_likelihood.shape != log_weights.shape:
        raise ValueError(
            f"log_likelihood has shape {tuple(log_likelihood.shape)}, but log_weights has "
            f"{tuple(log_weights.shape)}"
        )
    dtype = torch.promote_types(log_likelihood.dtype, log_weights.dtype)
    current, target = (
        torch.as_tensor(value, dtype=dtype, device=log_weights.device)
        for value in (current, target)
    )
    if not bool(((current >= 0) & (current <= 1)).all()):
        raise ValueError("current must be an inverse temperature in [0, 1]")
    if not bool(((target > 0) & (target < 1)).all()):
        raise ValueError("target must be a fraction of the particles in (0, 1)")
    refuse_invalid_values(log_likelihood, "log_likelihood")
    refuse_invalid_values(log_weights, "log_weights")
    alive = torch.isfinite(log_likelihood) & (log_weights > -torch.inf)
    if not bool(alive.any(-1).all()):
        raise DegenerateWeightsError(
            f"none of the {log_weights.shape[-1]} particles has both a positive weight and a "
            "finite log_likelihood: no temperature can be chosen. Start from more particles "
            "or look at the likelihood"
        )
    rows = log_weights.shape[:-1]
    return _temper_step(
        log_likelihood.to(dtype),
        log_weights.to(dtype),
        alive,
        current.expand(rows),
        target.expand(rows),
    )


def _temper_step(
    log_likelihood: torch.Tensor,
    log_weights: torch.Tensor,
    alive: torch.Tensor,
    current: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    limits = torch.finfo(log_weights.dtype)
    # Relative to the best, so that nothing overflows.
    best = torch.where(alive, log_likelihood, limits.min).amax(-1, keepdim=True)
    heaviest = torch.where(alive, log_weights, limits.min).amax(-1, keepdim=True)
    relative = torch.where(alive, (log_likelihood - best).clamp(min=limits.min), 0.0)
    start = torch.where(alive, log_weights - heaviest, -torch.inf)

    def size_after(step: torch.Tensor) -> torch.Tensor:
        return _sums(start + step[..., None] * relative)[2]

    size_now = size_after(torch.zeros_like(current))
    goal = target * log_weights.shape[-1]
    # The step before may have stopped at the goal, up to rounding. Counting that as below
    # it keeps the next step from being arbitrarily short.
    goal = torch.where(size_now > goal * 1.001, goal, target * size_now)
    longest = 1 - current
    reaches_one = size_after(longest) >= goal
    # Twice the smallest normal number: numbers below it may be flushed to zero.
    shortest = math.log(2 * limits.tiny)
    low = torch.full_like(goal, shortest)
    high = torch.log(longest.clamp(min=limits.tiny))
    # Each turn halves the interval of logarithms; at the end it is the relative error.
    for _ in range(math.ceil(math.log2(-shortest / max(limits.eps, 1e-12)))):
        middle = (low + high) / 2
        enough = size_after(torch.exp(middle)) >= goal
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    chosen = torch.maximum(
        current + torch.exp(low), torch.nextafter(current, torch.ones_like(current))
    )
    return torch.where(reaches_one, 1.0, chosen.clamp(max=1.0))
