"""Whether draws can be trusted: R-hat, effective sample sizes, and reasons in words."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bayeskit.errors import ConvergenceWarning
from bayeskit.inference.convergence import effective_sizes, rank_normalized_r_hats

__all__ = ["Diagnostics", "diagnose"]

# Thresholds of Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
MAX_RHAT = 1.01
MIN_ESS = 400.0
# Share of points without a usable density, for each draw, that is no reason for doubt.
_MAX_NOT_FINITE = 0.01


@dataclass(frozen=True)
class Diagnostics:
    """What a run says about its own reliability.

    Parameters
    ----------
    r_hat_max : float
        Largest rank-normalised split R-hat over all parameters.
    ess_bulk_min, ess_tail_min : float
        Smallest effective sample sizes; a parameter that never moved counts as 0.
    num_divergent : int
    num_not_finite : int
        Proposals whose log density was NaN or +inf; all were rejected.
    acceptance : float
        Mean acceptance probability.
    reasons : tuple of str
        Why the result cannot be trusted yet; empty if nothing was found.
    ess_squared_min : float
        Smallest effective sample size of squared deviations from the mean. Trajectories that
        are antithetic in means are slow here.
    """

    r_hat_max: float
    ess_bulk_min: float
    ess_tail_min: float
    num_divergent: int
    num_not_finite: int
    acceptance: float
    reasons: tuple[str, ...] = ()
    ess_squared_min: float = float("nan")

    @property
    def ess_min(self) -> float:
        """Return the smallest effective sample size of means, tails and squares."""
        return float(np.nanmin([self.ess_bulk_min, self.ess_tail_min, self.ess_squared_min]))

    @property
    def converged(self) -> bool:
        """Whether no reason for doubt was found."""
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for files."""
        return {**asdict(self), "reasons": list(self.reasons)}

    def warn(self) -> None:
        """Issue one ConvergenceWarning that names every reason."""
        if self.reasons:
            message = "the result cannot be trusted yet: " + "; ".join(self.reasons)
            # The line that called fit, which called this.
            warnings.warn(message, ConvergenceWarning, stacklevel=3)


def _worst(values: dict[str, np.ndarray], pick: Any) -> tuple[float, str]:
    name = pick(values, key=lambda n: float(_extreme(values[n], pick)))
    return float(_extreme(values[name], pick)), name


def _extreme(array: np.ndarray, pick: Any) -> np.ndarray:
    return np.max(array) if pick is max else np.min(array)


def _squared_deviations(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: (v - v.mean(axis=(0, 1))) ** 2 for name, v in draws.items()}


def diagnose(
    draws: dict[str, np.ndarray],
    *,
    num_divergent: int = 0,
    num_not_finite: int = 0,
    acceptance: float = float("nan"),
    reasons: tuple[str, ...] = (),
    min_ess: float = MIN_ESS,
    min_ess_squared: float = 0.0,
    max_divergent_share: float = 0.0,
) -> Diagnostics:
    """Return the diagnostics of draws (chain, draw, ...) by name.

    Parameters
    ----------
    draws : dict of arrays (chain, draw, ...)
    reasons : tuple of str
        Reasons that the engine found itself; more are added here.
    min_ess : float
        Least effective sample size of means and tails that is enough.
    min_ess_squared : float
        The same for squared deviations; 0 leaves it a number to look at.
    max_divergent_share : float
        Share of divergent transitions that is no reason for doubt.
    """
    found = list(reasons)
    moving, still = {}, []
    for name, values in draws.items():
        flat = values.reshape(*values.shape[:2], -1)
        constant = np.ptp(flat, axis=(0, 1)) == 0
        if constant.any():
            still.append(name)
        if not constant.all():
            moving[name] = flat[:, :, ~constant]
    r_hat, bulk, tail, squared = float("nan"), 0.0, 0.0, 0.0
    if moving:
        r_hats = {name: rank_normalized_r_hats(v) for name, v in moving.items()}
        bulks = {name: effective_sizes(v, "bulk") for name, v in moving.items()}
        tails = {name: effective_sizes(v, "tail") for name, v in moving.items()}
        r_hat, worst_r_hat = _worst(r_hats, max)
        bulk, worst_bulk = _worst(bulks, min)
        tail, worst_tail = _worst(tails, min)
        deviations = _squared_deviations(moving)
        squares = {name: effective_sizes(v) for name, v in deviations.items()}
        squared, worst_squared = _worst(squares, min)
        if not np.isfinite(r_hat):
            found.append("R-hat is not finite")
        elif r_hat > MAX_RHAT:
            found.append(
                f"R-hat of {worst_r_hat} is {r_hat:.3f} (> {MAX_RHAT}): chains disagree, "
                "run longer or reparametrise"
            )
        if not bulk >= min_ess:
            found.append(
                f"bulk effective sample size of {worst_bulk} is {bulk:.0f} (< {min_ess:.0f}): "
                "take more draws"
            )
        elif not tail >= min_ess:
            found.append(
                f"tail effective sample size of {worst_tail} is {tail:.0f} (< {min_ess:.0f}): "
                "take more draws"
            )
        elif not squared >= min_ess_squared:
            found.append(
                f"effective sample size of the squares of {worst_squared} is {squared:.0f} "
                f"(< {min_ess_squared:.0f}): judge it by quantiles, or take more draws"
            )
    if still:
        bulk = tail = squared = 0.0
        found.append(f"{', '.join(still)} did not move at all")
    num_chains, num_draws, *_ = next(iter(draws.values())).shape
    if num_divergent > max_divergent_share * num_chains * num_draws:
        found.append(
            f"{num_divergent} divergent transitions: raise target_acceptance or reparametrise"
        )
    if num_not_finite > _MAX_NOT_FINITE * num_chains * num_draws:
        found.append(
            f"the log density was NaN or +inf at {num_not_finite} of the points tried, which "
            "were rejected. Trajectories that run away do that: a non-centred form helps. Else "
            "look for overflow or a division by zero, and return -inf where the density is zero"
        )
    return Diagnostics(
        r_hat, bulk, tail, num_divergent, num_not_finite, acceptance, tuple(found), squared
    )
