"""A particle filter that proposes from amortised posteriors: exact, with unbiased evidence."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import ConvergenceWarning
from bayeskit.inference import random
from bayeskit.inference.blocks import extend, resample, spawn
from bayeskit.inference.blocks.weighting import Weigh, weighed
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.population import total_log_evidence
from bayeskit.inference.windowed_lineage import WindowedLineage, in_precision_of_weights
from bayeskit.models.distribution_transformer.mixture_arrays import (
    Mixture,
    draw,
    linear_prediction,
    log_density,
)
from bayeskit.models.distribution_transformer.programs import Motion, amortised
from bayeskit.models.distribution_transformer.supports import Support
from bayeskit.models.distribution_transformer.task import Problems, Task

__all__ = ["RefinedFilterResult", "Series", "filtered_by_particles", "guided_by_network"]

# Of the prediction in each proposal: weights are then at most 20 times the likelihood.
PREDICTION_SHARE = 0.05
# Below this many particles the moments of a time rest on a handful of them.
_FEWEST = 10.0


class Series(NamedTuple):
    """One series: the law of the start, the motion, and the data of each time.

    Attributes
    ----------
    initial : Mixture
        Of the state before the first motion.
    motion : Motion
    rows, masks : dicts of arrays (time, n, ...)
    vector : (p,) array
        Known numbers of the likelihood.
    """

    initial: Mixture
    motion: Motion
    rows: dict[str, Any]
    masks: dict[str, Any]
    vector: Any


class _Particle(NamedTuple):
    """A state with its log-weight, so that the network is asked once a step."""

    u: jax.Array
    log_g: jax.Array


@dataclass(frozen=True, eq=False)
class RefinedFilterResult:
    """Exact laws of a moving latent, as weighted particles of each time.

    Parameters
    ----------
    particles : (time, num, d) array
        Of the latent, to be used with ``weights`` only.
    weights : (time, num) array
        With sum 1 at each time.
    ess : (time,) array
    log_evidence, log_evidence_se : float
        The mean of the evidence, not of its logarithm, is exact.
    reasons : tuple of str
        Why the result cannot be trusted yet; empty if nothing was found.

    Examples
    --------
    Two times with three particles each:

    >>> import numpy as np
    >>> from bayeskit.models.distribution_transformer import RefinedFilterResult
    >>> particles = np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 4.0]])[..., None]
    >>> weights = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]])
    >>> ess = 1.0 / (weights**2).sum(axis=1)
    >>> result = RefinedFilterResult(particles, weights, ess, -3.1, 0.1)
    >>> result.mean[:, 0].tolist(), result.ess.round(2).tolist()
    ([0.5, 2.25], [2.0, 2.67])
    """

    particles: np.ndarray
    weights: np.ndarray
    ess: np.ndarray
    log_evidence: float
    log_evidence_se: float
    reasons: tuple[str, ...] = ()

    @property
    def reliable(self) -> bool:
        """Whether no reason for doubt was found."""
        return not self.reasons

    @property
    def mean(self) -> np.ndarray:
        """Means (time, d) of the latent, given the data up to each time."""
        return np.einsum("tn,tnd->td", self.weights, self.particles)

    @property
    def std(self) -> np.ndarray:
        """Standard deviations (time, d) of the latent."""
        squares = (self.particles - self.mean[:, None]) ** 2
        return np.sqrt(np.einsum("tn,tnd->td", self.weights, squares))

    def __repr__(self) -> str:
        verdict = "reliable" if self.reliable else "; ".join(self.reasons)
        return (
            f"RefinedFilterResult({len(self.ess)} times, {self.weights.shape[1]} particles, "
            f"smallest ess={self.ess.min():.0f}, log_evidence={self.log_evidence:.3f} "
            f"± {self.log_evidence_se:.3f}: {verdict})"
        )


def guided_by_network(
    task: Task, network: Any, weights: Any, scaling: Any, series: Series, num_steps: int
) -> FeynmanKac:
    r"""Return the Feynman-Kac model whose proposals are amortised posteriors.

    A particle at :math:`u_{t-1}` has the prior :math:`m_t = N(A u_{t-1} + c, Q)`, of which the
    network makes a posterior :math:`q_t` given the data of time t. It moves by

    .. math:: \bar q_t = (1 - a)\, q_t + a\, m_t, \qquad
        G_t = m_t(u_t)\, p(z_t \mid u_t) / \bar q_t(u_t) .

    With a perfect network the proposal is the locally optimal one; with any network the filter
    is exact.
    """
    motion = series.motion

    def moved(key: Any, t: Any, predicted: Mixture) -> _Particle:
        """Return a particle drawn for a time, given its prediction."""
        rows, masks = (
            jax.tree.map(lambda a: a[t], part) for part in (series.rows, series.masks)
        )
        alone = jax.tree.map(lambda a: a[None], Problems(predicted, rows, masks, series.vector))
        q, _ = amortised(task, network, weights, scaling, alone)
        proposal = _mixed(jax.tree.map(lambda a: a[0], q), predicted)
        u = draw(key, proposal)
        log_g = log_density(predicted, u) - log_density(proposal, u)
        problem = Problems(None, rows, masks, series.vector)
        return _Particle(u, log_g + task.log_likelihood(problem, u))

    def initial(key: Any) -> _Particle:
        return moved(key, 0, linear_prediction(series.initial, *motion))

    def kernel(key: Any, t: Any, before: _Particle) -> _Particle:
        point = Mixture(
            jnp.zeros(1, before.u.dtype),
            before.u[None],
            jnp.zeros((1, *motion.matrix.shape), before.u.dtype),
        )
        return moved(key, t, linear_prediction(point, *motion))

    return FeynmanKac(
        initial=initial,
        log_g0=lambda x: x.log_g,
        kernel=kernel,
        log_g=lambda t, before, x: x.log_g,
        num_steps=num_steps,
    )


def _mixed(q: Mixture, prediction: Mixture) -> Mixture:
    """Return a mixture of both, with a share of the prediction."""
    logs = (
        math.log1p(-PREDICTION_SHARE) + q.log_weights,
        math.log(PREDICTION_SHARE) + prediction.log_weights,
    )
    pairs = zip((*q[1:],), (*prediction[1:],), strict=True)
    return Mixture(jnp.concatenate(logs), *(jnp.concatenate(pair) for pair in pairs))


@functools.partial(quick_jit, static_argnames=("task", "network", "num_steps", "num"))
def _filtered(
    key: Any,
    weights: Any,
    scaling: Any,
    series: Series,
    *,
    task: Task,
    network: Any,
    num_steps: int,
    num: int,
) -> dict[str, jax.Array]:
    """Return particles, log-weights and log evidence after each time, and its variance."""
    model = guided_by_network(task, network, weights, scaling, series, num_steps)
    first_key, rest_key = random.split(key)
    population, _ = spawn(model.initial, num).run(first_key)
    population = population._replace(
        stage=jnp.zeros((), jnp.int32), lineage=WindowedLineage.founders(num)
    )
    population, _ = weighed(population, Weigh(model.log_g0).potential(population))
    step = resample("systematic", 0.5) >> extend(model.kernel, model.log_g)

    def described(now: Any) -> dict[str, jax.Array]:
        return {
            "u": now.particles.u,
            "log_weights": now.log_weights,
            "log_evidence": total_log_evidence(now),
            "variance": now.lineage.total_variance,
        }

    def once(step_key: Any, now: Any, t: Any) -> tuple[Any, Any]:
        moved, _ = step.run(step_key, now._replace(stage=t))
        moved = in_precision_of_weights(moved)
        return moved, described(moved)

    population = in_precision_of_weights(population)
    start = described(population)
    if num_steps == 1:
        return jax.tree.map(lambda a: a[None], start)
    times = jnp.arange(1, num_steps, dtype=jnp.int32)
    _, rest = random.scan(once, rest_key, population, times)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)


def filtered_by_particles(
    task: Task,
    network: Any,
    weights: Any,
    scaling: Any,
    series: Series,
    *,
    length: int,
    num_particles: int,
    key: Any,
) -> RefinedFilterResult:
    """Return the filter of one series, padded to a rounded length.

    Warns
    -----
    ConvergenceWarning
        Where few particles carry all weight.
    """
    (some, *_) = series.masks.values()
    found = _filtered(
        key,
        weights,
        scaling,
        series,
        task=task,
        network=network,
        num_steps=len(some),
        num=num_particles,
    )
    found = {name: np.asarray(values)[:length] for name, values in found.items()}
    weight = np.exp(found["log_weights"].astype(np.float64))
    ess = 1.0 / np.sum(weight**2, axis=1)
    reasons = _reasons(ess, num_particles, found)
    if reasons:
        warnings.warn(
            "the refined filter cannot be trusted yet: " + "; ".join(reasons),
            ConvergenceWarning,
            stacklevel=5,
        )
    return RefinedFilterResult(
        _constrained(task.support, found["u"]),
        weight,
        ess,
        float(found["log_evidence"][-1]),
        float(np.sqrt(max(found["variance"][-1], 0.0))),
        reasons,
    )


def _constrained(support: Support, u: np.ndarray) -> np.ndarray:
    return np.asarray(support.constrain(u), np.float64)


def _reasons(ess: np.ndarray, num: int, found: dict[str, np.ndarray]) -> tuple[str, ...]:
    reasons = []
    worst = int(np.argmin(np.nan_to_num(ess)))
    if not ess[worst] >= min(_FEWEST, 0.5 * num):
        reasons.append(
            f"at time {worst} the weights leave an effective sample size of {ess[worst]:.1f} "
            f"out of {num} particles: take more, or check that observation"
        )
    if not found["variance"][-1] < 1.0:
        reasons.append(
            "the standard error of the log evidence is "
            f"{np.sqrt(found['variance'][-1]):.1f}: take more particles"
        )
    return tuple(reasons)
