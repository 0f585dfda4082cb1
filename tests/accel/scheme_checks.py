"""Exact laws of resampling schemes, and slow implementations to compare with."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel

ALMOST_ONE = 1 - 2.0**-53

# Without optimisation, for programs that take longer to compile than to run.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# Asymmetric, with dead particles at both ends and inside, with a particle that has several
# sure copies, with expected numbers that are integers, with fewer and more offspring than
# particles, and with one, two and three remaining draws after the sure copies (with only one,
# all ways to resample remainders are the same).
SMALL_CASES = [
    ([0.28, 0.0, 0.27, 0.45], 3),
    ([0.2, 0.24, 0.26, 0.3], 3),
    ([0.17, 0.48, 0.35], 3),
    ([0.0, 0.62, 0.0, 0.05, 0.33, 0.0], 4),
    ([0.11, 0.0, 0.58, 0.31], 2),
    ([0.71, 0.29], 5),
    ([0.5, 0.25, 0.25], 4),
    ([0.0, 1.0, 0.0], 3),
]


def exact_law(scheme, weights, num):
    """Return masses (paths,) and ancestors (paths, num) over all cells of all uniforms.

    Fails if the ancestors change inside a cell, at its lower end included.
    """
    with jax.enable_x64(True):
        log_weights = jnp.log(jnp.asarray(weights))
        cdf = accel.scaled_cdf(log_weights, num)
        breaks = np.asarray(quick_jit(scheme.breaks, static_argnums=1)(cdf, num))
        shape = scheme.uniform_shape(len(weights), num)
        assert breaks.shape[:-1] == shape
        assert breaks.dtype == np.float64
        assert np.all((breaks >= 0) & (breaks <= 1))
        rows = np.sort(breaks.reshape(math.prod(shape), breaks.shape[-1]), axis=-1)
        cells = []
        for row in rows:
            edges = np.unique([0.0, *row, 1.0])
            # Breaks that differ by rounding only bound no cell of their own.
            cells.append([(a, b) for a, b in itertools.pairwise(edges) if b - a > 1e-12])
        paths = list(itertools.product(*cells))
        low = np.array([[a for a, _ in path] for path in paths])
        high = np.array([[b for _, b in path] for path in paths])
        masses = np.prod(high - low, axis=1)

        def ancestors_of(u):
            return scheme.ancestors(cdf, u.reshape(shape), num)

        run = quick_jit(jax.vmap(ancestors_of))
        ancestors = np.asarray(run((low + high) / 2))
        rng = np.random.default_rng(5)
        inside = low + rng.uniform(0.001, 0.999, low.shape) * (high - low)
        assert np.array_equal(run(inside), ancestors), "changes inside a cell"
        zeros = np.where(low == 0, 0.0, (low + high) / 2)
        ones = np.where(high == 1, ALMOST_ONE, (low + high) / 2)
        assert np.array_equal(run(zeros), ancestors), "changes at u = 0"
        assert np.array_equal(run(ones), ancestors), "changes at u just below 1"
        return masses, ancestors


def check_exact_law(scheme, weights, num, variance):
    """Assert the whole law of the numbers of offspring: support, mean, variance, order."""
    masses, ancestors = exact_law(scheme, weights, num)
    weights = np.asarray(weights)
    assert ancestors.shape == (len(masses), num)
    assert ancestors.dtype == np.int32
    assert np.all((ancestors >= 0) & (ancestors < len(weights)))
    assert np.all(weights[ancestors] > 0), "a particle of weight zero has offspring"
    if scheme.is_sorted:
        assert np.all(np.diff(ancestors, axis=1) >= 0)
    assert abs(masses.sum() - 1) < 1e-12
    offspring = np.array([np.bincount(a, minlength=len(weights)) for a in ancestors])
    mean = masses @ offspring
    assert np.max(np.abs(mean - num * weights)) < 1e-12, "mean of the offspring"
    second = masses @ (offspring - mean) ** 2
    assert np.max(np.abs(second - variance(weights, num))) < 1e-12, "variance of the offspring"
    if scheme.name == "multinomial":
        for slot in range(num):
            law = np.bincount(ancestors[:, slot], masses, minlength=len(weights))
            assert np.max(np.abs(law - weights)) < 1e-12, "law of one draw"


def fraction_above_whole(values):
    """Return values minus their floors, with integers up to rounding taken as integers."""
    values = np.asarray(values)
    whole = np.floor(values + 1e-12)
    return np.maximum(values - whole, 0.0), whole


def variance_systematic(weights, num):
    p, _ = fraction_above_whole(num * weights)
    return p * (1 - p)


def variance_stratified(weights, num):
    ends = num * np.cumsum(weights)
    starts = ends - num * weights
    strata = np.arange(num)[:, None]
    p = np.clip(np.minimum(ends, strata + 1) - np.maximum(starts, strata), 0, 1)
    return np.sum(p * (1 - p), axis=0)


def variance_multinomial(weights, num):
    return num * weights * (1 - weights)


def variance_residual_multinomial(weights, num):
    r, whole = fraction_above_whole(num * weights)
    num_draws = num - whole.sum()
    return r * (1 - r / num_draws) if num_draws else 0 * r


def variance_killing(weights, num):
    kept = weights / weights.max()
    law_of_slot = (1 - kept)[:, None] * weights + np.diag(kept)
    return np.sum(law_of_slot * (1 - law_of_slot), axis=0)


VARIANCES = {
    "systematic": variance_systematic,
    "stratified": variance_stratified,
    "multinomial": variance_multinomial,
    "residual": variance_systematic,
    "residual_multinomial": variance_residual_multinomial,
    "ssp": variance_systematic,
    "killing": variance_killing,
}


def cases_of(scheme):
    """The small cases, with as many offspring as particles where the scheme asks for that."""
    if not scheme.keeps_number:
        return SMALL_CASES
    # Dead particles at both ends are in one that is short enough to enumerate.
    return [(weights, len(weights)) for weights, _ in SMALL_CASES if len(weights) <= 4]


# ------------------------------------------------------------ rational arithmetic


def rational_weights(log_weights):
    """Return the weights as fractions: exact rational numbers from float64 exponentials."""
    log_weights = np.asarray(log_weights, float)
    return [Fraction(math.exp(x)) for x in log_weights - log_weights.max()]


def rational_ancestors(name, log_weights, u, num):
    """Return the ancestors by their definitions, with rational numbers throughout."""
    weights = rational_weights(log_weights)
    total = sum(weights)
    scaled = [num * w / total for w in weights]
    cumulative = list(itertools.accumulate(scaled))
    cumulative[-1] = Fraction(num)
    u = [Fraction(float(x)) for x in np.ravel(u)]
    find = functools.partial(bisect.bisect_right, cumulative)
    if name == "systematic":
        return [find(m + u[0]) for m in range(num)]
    if name == "stratified":
        return [find(m + u[m]) for m in range(num)]
    if name == "multinomial":
        return [find(num * u[m]) for m in range(num)]
    if name == "killing":
        return rational_killing(scaled, u, find)
    if name == "ssp":
        return rational_duels(scaled, u)
    sure = [math.floor(s) for s in scaled]
    remainders = list(itertools.accumulate(s - k for s, k in zip(scaled, sure, strict=True)))
    num_draws = num - sum(sure)
    copies = [i for i, k in enumerate(sure) for _ in range(k)]
    if name == "residual":
        drawn = [bisect.bisect_right(remainders, m + u[0]) for m in range(num_draws)]
        return sorted(copies + drawn)
    drawn = [bisect.bisect_right(remainders, num_draws * u[m]) for m in range(num_draws)]
    return copies + drawn


def rational_killing(scaled, u, find):
    """Keep each particle, or look up what is left of its uniform."""
    ancestors = []
    for i, chance in enumerate(s / max(scaled) for s in scaled):
        left = None if u[i] < chance else (u[i] - chance) / (1 - chance)
        ancestors.append(i if left is None else find(len(scaled) * left))
    return ancestors


def rational_duels(scaled, u):
    """The Srinivasan process as a loop that moves the fractions themselves."""
    offspring = [math.floor(s) for s in scaled]
    share = [s - k for s, k in zip(scaled, offspring, strict=True)]
    carrier = 0
    for i in range(1, len(scaled)):
        f, x = share[carrier], share[i]
        if f + x == 0:
            continue
        if f + x < 1:
            takes_over = u[i - 1] < x / (f + x)
        else:
            takes_over = u[i - 1] < (1 - x) / (2 - f - x)
            offspring[carrier if takes_over else i] += 1
        rest = (f + x) % 1
        share[carrier], share[i] = (0, rest) if takes_over else (rest, 0)
        carrier = i if takes_over else carrier
    return [i for i, k in enumerate(offspring) for _ in range(k)]
