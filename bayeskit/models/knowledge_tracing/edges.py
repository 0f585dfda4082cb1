r"""The posterior of the edges of a graph that is learned.

Parameters are learned without a graph first, and then with all edges. Near its maximum the
evidence of all learners is nearly quadratic
in the weights w of the edges, with the other parameters profiled out,

.. math:: \log p(y \mid w) \approx b'w - \tfrac12 w' I w , \qquad
    I = \sum_l g_l g_l' ,

g the scores of learners (the outer-product form of Fisher's information, which needs no second
derivatives). Each edge is absent or has a weight from a half-normal slab,

.. math:: w_{ik} \sim (1 - p)\,\delta_0 + p\,N_+(0, \tau^2) ,

and at most one direction of a pair, or no cycle at all, is allowed. Gibbs sampling draws each
pair of components given all others: absent, one way, or the other, with the weight integrated
out, and then the weight.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.knowledge_tracing.joint_filter import joint_log_evidences
from bayeskit.models.knowledge_tracing.structure import Structure, natural
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["EdgePosterior", "edge_posterior", "quadratic_evidence", "sampled_edges"]

# Learners whose scores are computed at once.
_CHUNK = 32
# Weights are learned in tenths.
_UNIT = 0.1


class EdgePosterior(NamedTuple):
    """What is known of the edges, (num_kc, num_kc) each; entry (i, k) is i to k.

    Parameters
    ----------
    probability : array
        That the edge is there.
    weight : array
        Mean influence, absent edges counting as zero.
    weight_sd : array
    """

    probability: np.ndarray
    weight: np.ndarray
    weight_sd: np.ndarray


@quick_jit(static_argnames=("structure", "scales"))
def _scores(
    u: dict, fixed: dict, trials: Trials, *, structure: Structure, scales: tuple
) -> dict:
    """Return the gradient of the log evidence of each learner by u."""

    def one(u, trial):
        many = jax.tree.map(lambda x: x[None], trial)
        return joint_log_evidences(natural(u, fixed, scales), many, structure)[0]

    return jax.vmap(jax.grad(one), in_axes=(None, 0))(u, trials)


def quadratic_evidence(
    u: dict,
    fixed: dict,
    trials: Trials,
    priors: dict,
    *,
    structure: Structure,
    scales: tuple,
) -> tuple[np.ndarray, np.ndarray]:
    """Return b (edges,) and I (edges, edges) of the log evidence at its maximum u.

    Parameters
    ----------
    u : dict
        All that was learned, edges among it.
    priors : dict
        Mean and precision of each parameter.
    """
    num, chunks = trials.real.shape[0], []
    size = min(_CHUNK, num)
    for begin in range(0, num, size):
        part = jax.tree.map(lambda x, b=begin: x[b : b + size], trials)
        found = _scores(u, fixed, part, structure=structure, scales=scales)
        chunks.append(
            {n: np.asarray(g, np.float64).reshape(size, -1) for n, g in found.items()}
        )
    scores = {name: np.concatenate([c[name] for c in chunks]) for name in u}
    others = [name for name in u if name != "edge"]
    edges = scores["edge"] / _UNIT
    nuisance = np.concatenate([scores[name] for name in others], axis=1)
    pull = [priors[n][1] * (priors[n][0] - np.asarray(u[n], np.float64)) for n in others]
    tightness = [np.full(np.size(u[n]), priors[n][1]) for n in others]
    # A little more than nothing, where a flat prior meets scores that are all zero.
    within = nuisance.T @ nuisance + np.diag(np.maximum(np.concatenate(tightness), 1e-6))
    rest = nuisance.sum(axis=0) + np.concatenate([np.ravel(p) for p in pull])
    across = np.linalg.solve(within, nuisance.T @ edges)
    information = edges.T @ edges - (nuisance.T @ edges).T @ across
    information = 0.5 * (information + information.T)
    weight = _UNIT * np.ravel(np.asarray(u["edge"], np.float64))
    return information @ weight + edges.sum(axis=0) - rest @ across, information


def _reaches(A: np.ndarray, start: int, end: int) -> bool:
    """Return whether a path leads from one component to another."""
    front, seen = [start], {start}
    while front:
        node = front.pop()
        if node == end:
            return True
        for other in np.flatnonzero(A[node]):
            if other not in seen:
                seen.add(int(other))
                front.append(int(other))
    return False


def sampled_edges(
    b: np.ndarray,
    information: np.ndarray,
    *,
    probability: float,
    slab_sd: float,
    acyclic: bool,
    num_sweeps: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return draws of the weights, (num_sweeps, num_kc, num_kc), after as many to warm up.

    Parameters
    ----------
    b, information
        Of the quadratic log evidence, edges in the order of a flattened (num_kc, num_kc).
    probability, slab_sd : float
        p and τ.
    acyclic : bool
        Whether cycles are ruled out altogether.
    """
    K = round(len(b) ** 0.5)
    w = np.zeros(K * K)
    pairs = [(i, k) for i in range(K) for k in range(i)]
    prior = np.log(probability) - np.log1p(-probability)
    draws = []
    for sweep in range(2 * num_sweeps):
        for pair in generator.permutation(len(pairs)):
            i, k = pairs[pair]
            options = ((i, k), (k, i))
            for edge in options:
                w[edge[0] * K + edge[1]] = 0.0
            A = w.reshape(K, K) != 0
            log_odds, moments = [0.0], []
            for start, end in options:
                place = start * K + end
                precision = information[place, place] + slab_sd**-2.0
                sd = precision**-0.5
                mean = (b[place] - information[place] @ w) / precision
                moments.append((mean, sd))
                if acyclic and _reaches(A, end, start):
                    log_odds.append(-np.inf)
                    continue
                # The half-normal slab, integrated over positive weights.
                inside = np.log(2.0 * sd / slab_sd) + 0.5 * (mean / sd) ** 2
                log_odds.append(prior + inside + log_ndtr(mean / sd))
            chance = np.exp(log_odds - logsumexp(log_odds))
            choice = generator.choice(3, p=chance)
            if choice:
                start, end = options[choice - 1]
                w[start * K + end] = _positive_normal(*moments[choice - 1], generator)
        if sweep >= num_sweeps:
            draws.append(w.reshape(K, K).copy())
    return np.stack(draws)


def _positive_normal(mean: float, sd: float, generator: np.random.Generator) -> float:
    """Draw a normal number given that it is positive."""
    below = ndtr(-mean / sd)
    u = generator.uniform()
    drawn = mean + sd * ndtri(below + u * (1.0 - below))
    if not np.isfinite(drawn) or drawn <= 0:
        # Far in the tail: exponential to first order.
        drawn = -np.log(u) * sd * sd / max(-mean, sd)
    return float(drawn)


def edge_posterior(draws: np.ndarray) -> EdgePosterior:
    """Return probabilities and weights of edges from draws of their weights."""
    return EdgePosterior((draws > 0).mean(axis=0), draws.mean(axis=0), draws.std(axis=0))


def stable(weight: Any) -> np.ndarray:
    """Return weights scaled down, if need be, until states stay bounded."""
    radius = float(np.abs(np.linalg.eigvals(weight)).max(initial=0.0))
    return np.asarray(weight) * min(1.0, 0.95 / radius if radius > 0 else 1.0)
