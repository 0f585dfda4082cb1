"""Resampling schemes on torch tensors: functions of uniforms, given or drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bayeskit.accel._checks import as_count
from bayeskit.accel.torch._checks import as_log_tensor, as_uniforms
from bayeskit.accel.torch.offspring import (
    offspring_to_ancestors,
    round_up_where_above,
    scaled_cdf,
)
from bayeskit.accel.torch.weights import normalize

__all__ = [
    "Ancestors",
    "multinomial",
    "residual",
    "residual_multinomial",
    "stratified",
    "systematic",
]


class Ancestors(NamedTuple):
    """The outcome of resampling.

    Parameters
    ----------
    index : (..., num) int32 tensor in [0, num_particles)
        The particle that each offspring copies.
    log_mean : (...) tensor
        Logarithm of the mean of the unnormalised weights, the factor of an evidence estimate.
        Its gradient is the normalised weights.
    effective_sample_size : (...) tensor in [1, num_particles]
    """

    index: torch.Tensor
    log_mean: torch.Tensor
    effective_sample_size: torch.Tensor


def _resample(
    scheme: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    one_uniform: bool,
    log_weights: Any,
    num: int | None,
    u: Any,
    generator: torch.Generator | None,
    nan: str,
) -> Ancestors:
    log_weights = as_log_tensor(log_weights, "log_weights", nan)
    num = as_count(log_weights.shape[-1] if num is None else num)
    if u is not None and generator is not None:
        raise ValueError("give either u or generator, not both")
    cdf = scaled_cdf(log_weights, num)
    shape = (*cdf.shape[:-1], 1 if one_uniform else num)
    if u is None:
        uniforms = torch.rand(
            shape, generator=generator, dtype=torch.float64, device=cdf.device
        )
    else:
        uniforms = as_uniforms(u, shape[:-1] if one_uniform else shape, cdf.device)
        uniforms = uniforms.reshape(shape)
    summary = normalize(log_weights)
    index = scheme(cdf, uniforms, num) if num else cdf.new_zeros((*shape[:-1], 0)).int()
    return Ancestors(index, summary.log_mean, summary.effective_sample_size)


def _systematic(cdf: torch.Tensor, u: torch.Tensor, num: int) -> torch.Tensor:
    return offspring_to_ancestors(round_up_where_above(cdf, u), num)


def _stratified(cdf: torch.Tensor, u: torch.Tensor, num: int) -> torch.Tensor:
    # Only the uniform of the stratum that holds R_i matters.
    stratum = cdf.to(torch.int64).clamp(max=num - 1)
    return offspring_to_ancestors(round_up_where_above(cdf, u.gather(-1, stratum)), num)


def _multinomial(cdf: torch.Tensor, u: torch.Tensor, num: int) -> torch.Tensor:
    return _count_at_most(cdf, u, cdf[..., -1:])


def _residual_multinomial(cdf: torch.Tensor, u: torch.Tensor, num: int) -> torch.Tensor:
    start = torch.zeros_like(cdf[..., :1])
    sure = torch.cumsum(torch.diff(cdf, prepend=start).to(torch.int32), -1, dtype=torch.int32)
    remainders = cdf - sure
    drawn = _count_at_most(remainders, u, remainders[..., -1:])
    copied = offspring_to_ancestors(sure, num)
    # Slots: first the sure copies, then the draws in the order of their uniforms.
    draw = torch.arange(num, device=cdf.device) - sure[..., -1:]
    return torch.where(draw < 0, copied, drawn.gather(-1, draw.clamp(min=0)))


def _count_at_most(values: torch.Tensor, u: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Return how many of the sorted values are at most u times the total, below the total."""
    below = torch.nextafter(total, torch.zeros_like(total))
    levels = torch.minimum(u * total, below)
    return torch.searchsorted(values.contiguous(), levels, right=True, out_int32=True)


def systematic(
    log_weights: Any,
    num: int | None = None,
    *,
    u: Any = None,
    generator: torch.Generator | None = None,
    nan: str = "refuse",
) -> Ancestors:
    r"""Resample with one uniform for all offspring: the usual choice.

    .. math:: a_m = \#\{i : R_i \le m + u\}, \qquad
        R_i = \text{num} \sum_{j \le i} W_j

    See :func:`bayeskit.accel.systematic`.

    Parameters
    ----------
    log_weights : (..., num_particles) tensor, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring. Default: as many as there are particles.
    u : (...) tensor in [0, 1), or a number for one row, optional
        The uniforms. With the same ones JAX chooses the same ancestors.
    generator : torch.Generator, optional
        What the uniforms are drawn from otherwise, on the device of ``log_weights``. Default:
        torch's own.
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    Ancestors
        Indices are sorted.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf.
    DegenerateWeightsError
        If all log-weights of a row are -inf.
    TypeError, ValueError
        For integer log-weights, no particles, a number outside [0, 2**31), uniforms outside
        [0, 1) or of another shape, both uniforms and a generator, or an unknown ``nan``.

    Notes
    -----
    O(N + num).

    References
    ----------
    Carpenter, Clifford & Fearnhead (1999).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import systematic
    >>> systematic(torch.tensor([0.5, 0.25, 0.25]).log(), 4, u=0.5).index.tolist()
    [0, 0, 1, 2]
    """
    return _resample(_systematic, True, log_weights, num, u, generator, nan)


def stratified(
    log_weights: Any,
    num: int | None = None,
    *,
    u: Any = None,
    generator: torch.Generator | None = None,
    nan: str = "refuse",
) -> Ancestors:
    r"""Resample with one uniform for each of ``num`` strata of equal mass.

    .. math:: a_m = \#\{i : R_i \le m + u_m\}

    See :func:`bayeskit.accel.stratified`.

    Parameters
    ----------
    log_weights, num, generator, nan
        As for :func:`systematic`.
    u : (..., num) tensor in [0, 1), optional

    Returns
    -------
    Ancestors
        Indices are sorted.

    Raises
    ------
    InvalidWeightsError, DegenerateWeightsError, TypeError, ValueError
        As for :func:`systematic`.

    Notes
    -----
    O(N + num).

    References
    ----------
    Kitagawa (1996).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import stratified
    >>> stratified(torch.zeros(4)).index.tolist()
    [0, 1, 2, 3]
    """
    return _resample(_stratified, False, log_weights, num, u, generator, nan)


def multinomial(
    log_weights: Any,
    num: int | None = None,
    *,
    u: Any = None,
    generator: torch.Generator | None = None,
    nan: str = "refuse",
) -> Ancestors:
    r"""Resample with independent draws.

    .. math:: a_m = \#\{i : R_i \le \text{num}\, u_m\}

    See :func:`bayeskit.accel.multinomial`.

    Parameters
    ----------
    log_weights, num, generator, nan
        As for :func:`systematic`.
    u : (..., num) tensor in [0, 1), optional

    Returns
    -------
    Ancestors
        Indices in the order of the uniforms.

    Raises
    ------
    InvalidWeightsError, DegenerateWeightsError, TypeError, ValueError
        As for :func:`systematic`.

    Notes
    -----
    O(N + num log N): torch's bisection.

    References
    ----------
    Gordon, Salmond & Smith (1993).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import multinomial
    >>> multinomial(torch.zeros(4), u=[0.9, 0.1, 0.3, 0.2]).index.tolist()
    [3, 0, 1, 0]
    """
    return _resample(_multinomial, False, log_weights, num, u, generator, nan)


def residual(
    log_weights: Any,
    num: int | None = None,
    *,
    u: Any = None,
    generator: torch.Generator | None = None,
    nan: str = "refuse",
) -> Ancestors:
    r"""Resample by sure copies, and systematically what remains.

    The prefix sums of the remainders differ from R by integers, so that this is
    :func:`systematic` with the same uniform: it is here for its name. See
    :func:`bayeskit.accel.residual`.

    Parameters
    ----------
    log_weights, num, u, generator, nan
        As for :func:`systematic`.

    Returns
    -------
    Ancestors
        Indices are sorted.

    Raises
    ------
    InvalidWeightsError, DegenerateWeightsError, TypeError, ValueError
        As for :func:`systematic`.

    Notes
    -----
    O(N + num).

    References
    ----------
    Douc, Cappé & Moulines (2005).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import residual
    >>> residual(torch.tensor([0.5, 0.25, 0.25]).log(), 4).index.tolist()
    [0, 0, 1, 2]
    """
    return _resample(_systematic, True, log_weights, num, u, generator, nan)


def residual_multinomial(
    log_weights: Any,
    num: int | None = None,
    *,
    u: Any = None,
    generator: torch.Generator | None = None,
    nan: str = "refuse",
) -> Ancestors:
    r"""Resample by sure copies, and by independent draws what remains.

    See :func:`bayeskit.accel.residual_multinomial`.

    Parameters
    ----------
    log_weights, num, generator, nan
        As for :func:`systematic`.
    u : (..., num) tensor in [0, 1), optional
        As many as there are draws are used.

    Returns
    -------
    Ancestors
        First the sure copies, sorted, then the draws in the order of their uniforms.

    Raises
    ------
    InvalidWeightsError, DegenerateWeightsError, TypeError, ValueError
        As for :func:`systematic`.

    Notes
    -----
    O(N + num log N).

    References
    ----------
    Liu & Chen (1998).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import residual_multinomial
    >>> residual_multinomial(torch.zeros(2), 4).index.tolist()
    [0, 0, 1, 1]
    """
    return _resample(_residual_multinomial, False, log_weights, num, u, generator, nan)
