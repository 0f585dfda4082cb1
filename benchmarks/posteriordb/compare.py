"""Whether draws agree with a reference, and how many independent draws they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bayeskit.interop.arviz import effective_sample_sizes, rank_normalized_rhat

__all__ = ["Comparison", "Reference", "compare", "worst_ess"]

# The rule that comes with the reference draws.
MAX_Z = 4.0
# In units of sqrt(1/n + 1/m): level 0.001 for each parameter. The stored draws of arK lie by
# chance 3.5 of their standard errors off for beta[3], so that right samplers come near it.
MAX_KS = 1.95
MAX_BIAS = 0.1  # in standard deviations, so that a large error bar excuses nothing
MIN_ESS = 400.0


@dataclass(frozen=True)
class Reference:
    """What is known about a posterior; arrays have one entry a parameter.

    ``draws`` (num, parameter) are about independent. Without ``mean_sq`` second moments are not
    compared, and without ``draws`` no marginals; heavy tails are judged by marginals alone.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    mcse_mean: np.ndarray
    mean_sq: np.ndarray | None = None
    mcse_mean_sq: np.ndarray | None = None
    draws: np.ndarray | None = None
    heavy_tailed: bool = False

    @classmethod
    def of_draws(cls, draws: Mapping[str, np.ndarray], heavy_tailed: bool = False) -> Reference:
        """Return the reference that independent draws by name are."""
        table = np.column_stack([np.ravel(values) for values in draws.values()])
        root = np.sqrt(len(table))
        squares = table**2
        return cls(
            tuple(draws),
            table.mean(axis=0),
            table.std(axis=0),
            table.std(axis=0) / root,
            squares.mean(axis=0),
            squares.std(axis=0) / root,
            table,
            heavy_tailed,
        )


@dataclass(frozen=True)
class Comparison:
    """Largest deviations over all parameters; NaN where nothing could be compared.

    Parameters
    ----------
    z_mean, z_square : float
        |difference| of means and second moments in standard errors.
    bias : float
        |difference| of means in posterior standard deviations.
    ks : float
        Kolmogorov-Smirnov distance of thinned draws in units of sqrt(1/n + 1/m).
    ess : float
        Worst effective sample size, see :func:`worst_ess`.
    r_hat : float
    reasons : tuple of str
        Why the draws do not agree; empty if they do.
    """

    z_mean: float
    z_square: float
    bias: float
    ks: float
    ess: float
    r_hat: float
    reasons: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing was found."""
        return not self.reasons

    @property
    def max_z(self) -> float:
        """Largest z of means and second moments."""
        found = [z for z in (self.z_mean, self.z_square) if not np.isnan(z)]
        return max(found, default=np.nan)


def worst_ess(draws: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the effective sample size of draws (chain, draw) by name.

    The least of the bulk and the tail size, and of the bulk size of (x - mean)^2: trajectories
    that overshoot make means better than independent draws and pay with second moments.
    A parameter that never moved, or moved to what is not finite, has size 0.
    """
    sizes = dict.fromkeys(draws, 0.0)
    moving = {n: x for n, x in draws.items() if np.isfinite(x).all() and np.ptp(x) > 0}
    if moving:
        squares = {name: (x - x.mean()) ** 2 for name, x in moving.items()}
        found = (
            effective_sample_sizes(moving, "bulk"),
            effective_sample_sizes(moving, "tail"),
            effective_sample_sizes(squares, "bulk"),
        )
        for name in moving:
            sizes[name] = min(float(np.nan_to_num(size[name])) for size in found)
    return sizes


def compare(
    draws: Mapping[str, np.ndarray],
    reference: Reference,
    *,
    max_z: float = MAX_Z,
    max_ks: float = MAX_KS,
    max_bias: float = MAX_BIAS,
    min_ess: float = MIN_ESS,
) -> Comparison:
    r"""Compare draws (chain, draw) by name with a reference.

    .. math:: z_j = (m_j - M_j) / \sqrt{e_j^2 + E_j^2}

    with our mean :math:`m_j`, its standard error :math:`e_j = s_j / \sqrt{ESS_j}`, and the
    same of the reference in capitals; and likewise for second moments.

    Raises
    ------
    ValueError
        If a parameter of the reference was not drawn.
    """
    missing = [name for name in reference.names if name not in draws]
    if missing:
        raise ValueError(f"no draws of {missing}: there are {sorted(draws)}")
    draws = {name: np.asarray(draws[name], np.float64) for name in reference.names}
    ess = worst_ess(draws)
    still = [name for name, size in ess.items() if size == 0.0]
    if still:
        reason = f"{', '.join(still)}: constant or not finite"
        return Comparison(np.inf, np.inf, np.inf, np.inf, 0.0, np.inf, (reason,))
    r_hat = max(float(r) for r in rank_normalized_rhat(draws).values())
    means = _moments(draws)
    bias = _largest((means[0] - reference.mean) / reference.sd)
    z_mean = z_square = ks = np.nan
    if reference.heavy_tailed:
        bias = np.nan
    else:
        z_mean = _largest(_z(*means, reference.mean, reference.mcse_mean))
        if reference.mean_sq is not None:
            squares = _moments({name: x**2 for name, x in draws.items()})
            z_square = _largest(_z(*squares, reference.mean_sq, reference.mcse_mean_sq))
    if reference.draws is not None:
        columns = zip(draws.items(), reference.draws.T, strict=True)
        ks = max(_scaled_distance(x, ess[name], column) for (name, x), column in columns)
    worst = min(ess.values())
    limits = (
        ("ESS is", -worst, -min_ess),
        ("z of the means is", z_mean, max_z),
        ("z of the second moments is", z_square, max_z),
        ("bias in standard deviations is", bias, max_bias),
        ("scaled Kolmogorov-Smirnov distance is", ks, max_ks),
    )
    reasons = tuple(
        f"{what} {abs(found):.3g}, the limit {abs(limit):.3g}"
        for what, found, limit in limits
        if found >= limit
    )
    return Comparison(z_mean, z_square, bias, ks, worst, r_hat, reasons)


def _moments(values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return means and their standard errors."""
    sizes = effective_sample_sizes(dict(values), "mean")
    means = np.array([x.mean() for x in values.values()])
    errors = [x.std() / np.sqrt(sizes[name]) for name, x in values.items()]
    return means, np.array(errors)


def _z(ours, our_error, theirs, their_error) -> np.ndarray:
    return (ours - theirs) / np.hypot(our_error, their_error)


def _largest(values: np.ndarray) -> float:
    return float(np.max(np.abs(values)))


def _scaled_distance(ours: np.ndarray, ess: float, theirs: np.ndarray) -> float:
    """Return the two-sample distance of about independent draws, over sqrt(1/n + 1/m)."""
    thinned = np.ravel(ours)[:: max(1, int(np.ceil(ours.size / ess)))]
    distance = stats.ks_2samp(thinned, theirs).statistic
    return float(distance / np.sqrt(1 / thinned.size + 1 / theirs.size))
