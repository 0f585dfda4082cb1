"""Mutants 49 to 59: mistakes in resampling, in the choice of ancestors and in copying them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks import draw_ancestors
from bayeskit.validation import Atoms
from tests.inference.finite_models import log_table
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

FAMILY = "Resampling"


# ---------------------------------------------------------------- schemes


def inverse_cdf(key, log_weights, num, *, mistake=""):
    """Invert the cumulative weights at independent uniforms."""
    weights = jnp.exp(log_weights)
    cdf = jnp.cumsum(weights)
    breaks = jnp.broadcast_to(cdf[:-1], (num, len(cdf) - 1))
    u = random.piecewise_uniform(key, (num,), lambda: breaks)
    if mistake == "off by one":
        # The sum that leaves the particle itself out is one place ahead.
        cdf = cdf - weights
    # On a step of the sum u belongs to the right: to its left the weight may be zero.
    side = "left" if mistake == "wrong side" else "right"
    last = len(cdf) - (2 if mistake == "last particle never chosen" else 1)
    index = jnp.minimum(jnp.searchsorted(cdf, u, side=side), last)
    if mistake == "last particle always chosen":
        index = index.at[-1].set(last)
    return index.astype(jnp.int32)


def systematic(key, log_weights, num, *, mistake=""):
    """Invert the cumulative weights at equally spaced points, moved by one uniform."""
    cdf = jnp.cumsum(jnp.exp(log_weights))
    slots = jnp.arange(num) / num
    # Where a point meets a step: of the right points, and of those with the mistake.
    breaks = [num * (cdf[:, None] - slots), cdf[:, None] - slots]
    u = random.piecewise_uniform(key, (), lambda: jnp.concatenate(breaks, axis=None))
    points = slots + (u if mistake == "not divided" else u / num)
    index = jnp.searchsorted(cdf, points, side="right")
    return jnp.minimum(index, len(cdf) - 1).astype(jnp.int32)


def residual(key, log_weights, num, *, mistake=""):
    """Copy what is sure, and choose systematically what remains."""
    mean = jnp.diff(accel.scaled_cdf(log_weights, num), prepend=0.0)
    sure = jnp.floor(mean)
    rest = mean if mistake == "remainder of the weights" else mean - sure
    total = jnp.sum(rest)
    if mistake != "nothing remains":
        # All expected numbers may be whole.
        total = jnp.where(total > 0, total, 1.0)
    upto = (num - jnp.sum(sure)) * jnp.cumsum(rest / total)
    inner = jnp.nan_to_num(upto[:-1])
    u = random.piecewise_uniform(key, (), lambda: inner - jnp.floor(inner))
    offspring = jnp.cumsum(sure) + jnp.ceil(upto - u)
    index = jnp.sum(offspring <= jnp.arange(num)[:, None], axis=1)
    return jnp.minimum(index, len(mean) - 1).astype(jnp.int32)


def residual_multinomial(key, log_weights, num, *, mistake=""):
    """Copy what is sure, and choose independently what remains."""
    weights = jnp.exp(log_weights)
    sure = jnp.floor(weights if mistake == "floor of the weights" else num * weights)
    rest = num * weights - sure
    # All expected numbers may be whole.
    log_rest = jnp.where(jnp.sum(rest) > 0, jnp.log(rest), 0.0)
    chosen = random.categorical(key, log_rest, num)
    slots = jnp.arange(num)
    copied = jnp.sum(jnp.cumsum(sure) <= slots[:, None], axis=1)
    return jnp.where(slots < jnp.sum(sure), copied, chosen).astype(jnp.int32)


def residual_by_counts(key, log_weights, num):
    """The same: every particle as often as is sure, then one draw a slot."""
    weights = jnp.exp(log_weights)
    sure = jnp.floor(num * weights).astype(jnp.int32)
    copied = jnp.repeat(jnp.arange(len(weights)), sure, total_repeat_length=num)

    def one(lane_key, slot):
        chosen = random.categorical(lane_key, jnp.log(num * weights - sure))
        return jnp.where(slot < jnp.sum(sure), copied[slot], chosen).astype(jnp.int32)

    return random.lanes(one, key, jnp.arange(num))


def killing(key, log_weights, num, *, mistake=""):
    """Keep each particle with a probability that its weight sets, else draw another."""
    keep_key, draw_key = random.split(key)
    largest = 0.0 if mistake == "not relative to the largest" else jnp.max(log_weights)
    kept = random.accept(keep_key, log_weights - largest)
    return jnp.where(kept, jnp.arange(num), random.categorical(draw_key, log_weights, num))


def stratified(key, log_weights, num, *, mistake=""):
    """Invert the cumulative weights at one point in each of equal intervals."""
    scheme = accel.SCHEMES["stratified"]
    cdf = accel.scaled_cdf(log_weights, num)
    breaks = scheme.breaks(cdf, num)
    if mistake == "one uniform for all strata":
        u = random.piecewise_uniform(key, (), lambda: breaks.ravel())
        u = jnp.broadcast_to(u, (num,))
    else:
        u = random.piecewise_uniform(key, (num,), lambda: breaks)
    return scheme.ancestors(cdf, u, num)


def offspring_of(scheme, mistake):
    """Expected numbers of offspring, exactly."""

    def check(planted, *, by=validate_exactly):
        ancestors = functools.partial(scheme, mistake=mistake if planted else "")
        if scheme is killing:
            # It is defined for as many offspring as there are particles.
            ancestors = functools.partial(same_number, scheme=ancestors)
        return by(ancestors, law="resampling")

    return check


def same_number(key, log_weights, num, *, scheme):
    if num != len(log_weights):
        return random.categorical(key, log_weights, num)
    return scheme(key, log_weights, num)


WEIGHTS = np.array([0.22, 0.13, 0.65])


def law_of(scheme, mistake, right):
    """The joint law of all ancestors against that of another implementation, exactly."""

    def check(planted, *, by=validate_exactly):
        def ancestors(key):
            log_weights = log_table(np.log(WEIGHTS))
            chosen = scheme(key, log_weights, 3, mistake=mistake if planted else "")
            return chosen.astype(jnp.int32)

        def expected(key):
            return right(key, log_table(np.log(WEIGHTS)), num=3).astype(jnp.int32)

        return by(ancestors, expected=expected, law="same")

    return check


def killing_one_by_one(key, log_weights, num):
    """Killing as a loop over particles."""
    largest = jnp.max(log_weights)

    def one(lane_key, i):
        keep_key, draw_key = random.split(lane_key)
        kept = random.accept(keep_key, log_weights[i] - largest)
        return jnp.where(kept, i, random.categorical(draw_key, log_weights))

    return random.lanes(one, key, jnp.arange(num, dtype=jnp.int32))


# ---------------------------------------------------------------- copying

_RNG = np.random.default_rng(55)
_INITIAL = _RNG.dirichlet(np.ones(3))  # of x
_LABEL = _RNG.dirichlet(np.ones(2), 3)  # of y given x
_POTENTIAL = _RNG.uniform(0.2, 2.0, (3, 2))
_TRANSITION = _RNG.dirichlet(np.ones(3), 3)  # of x
_MASS = (_INITIAL[:, None] * _LABEL * _POTENTIAL).T @ _TRANSITION
_PAIRS = np.stack(np.meshgrid(np.arange(3), np.arange(2)), -1).reshape(-1, 2)
GAMMA = Atoms({"x": _PAIRS[:, 0], "y": _PAIRS[:, 1]}, _MASS.ravel())


def one_round(key, num=3, *, mistake=""):
    """Draw, weigh, resample and move particles of two leaves; return one of them."""
    start_key, resample_key, move_key, choice_key = random.split(key, 4)

    def start(particle_key, _):
        x_key, y_key = random.split(particle_key)
        x = random.categorical(x_key, log_table(np.log(_INITIAL)))
        return {"x": x, "y": random.categorical(y_key, log_table(np.log(_LABEL))[x])}

    unsorted = random.lanes(start, start_key, jnp.arange(num))
    particles = accel.take_particles(unsorted, jnp.argsort(unsorted["x"]))
    log_w = log_table(np.log(_POTENTIAL))[particles["x"], particles["y"]]
    # Systematic: of independent ancestors, ancestors of ancestors have the same mean.
    ancestors = draw_ancestors(resample_key, log_w, "systematic", num)
    copies = accel.take_particles(particles, ancestors)
    if mistake == "payload not sorted":
        copies["y"] = unsorted["y"][ancestors]
    if mistake == "applied twice":
        copies = accel.take_particles(copies, ancestors)
    if mistake == "leaf not gathered":
        copies["y"] = particles["y"]

    def moved(particle_key, x):
        return random.categorical(particle_key, log_table(np.log(_TRANSITION))[x])

    if mistake == "copies share storage":
        # A move in place changes every copy of the same particle.
        storage = particles["x"]
        for slot, slot_key in enumerate(random.split(move_key, num)):
            here = ancestors[slot]
            storage = storage.at[here].set(moved(slot_key, storage[here]))
        copies["x"] = storage[ancestors]
    else:
        copies["x"] = random.lanes(moved, move_key, copies["x"])
    chosen = random.categorical(choice_key, jnp.zeros(num))
    log_z = jax.nn.logsumexp(log_w) - jnp.log(num)
    return log_z, jax.tree.map(lambda leaf: leaf[chosen], copies)


def round_with(mistake):
    def check(planted, *, by=validate_exactly):
        estimate = functools.partial(one_round, mistake=mistake if planted else "")
        return by(estimate, expected=GAMMA, law="unbiased")

    return check


# ---------------------------------------------------------------- the list


def of_scheme(number, name, scheme, mistake, blind=()):
    checks = exact_and_sampled(offspring_of(scheme, mistake))
    found_by = tuple(check for check in checks if check not in blind)
    return Mutant(number, name, FAMILY, checks, found_by)


def of_law(number, name, scheme, mistake, right):
    # Expected numbers of offspring are right: only the joint law tells.
    same_law = exact_and_sampled(law_of(scheme, mistake, right))
    return Mutant(
        number=number,
        name=name,
        family=FAMILY,
        checks={
            "exact": offspring_of(scheme, mistake),
            "same law": same_law["sampled"],
            "same law, exact": same_law["exact"],
        },
        found_by=("same law", "same law, exact"),
    )


def of_round(number, name, mistake):
    return Mutant(
        number=number,
        name=name,
        family=FAMILY,
        checks=exact_and_sampled(round_with(mistake)),
        found_by=("exact", "sampled"),
    )


MUTANTS: tuple[Mutant, ...] = (
    of_scheme(49, "exclusive cumulative sum: off by one", inverse_cdf, "off by one"),
    # Right wherever u is not on a step, which has no length: no check meets it.
    of_scheme(
        49,
        "binary search on the wrong side of a step",
        inverse_cdf,
        "wrong side",
        blind=("exact", "sampled"),
    ),
    of_scheme(
        50, "the last particle is never chosen", inverse_cdf, "last particle never chosen"
    ),
    of_scheme(
        50, "the last particle is always chosen", inverse_cdf, "last particle always chosen"
    ),
    of_scheme(51, "systematic uniform not divided by N", systematic, "not divided"),
    of_scheme(52, "residual divides by a remainder of zero", residual, "nothing remains"),
    of_law(
        53,
        "residual rounds down W instead of N W",
        residual_multinomial,
        "floor of the weights",
        residual_by_counts,
    ),
    of_scheme(
        53, "residual draws from weights, not remainders", residual, "remainder of the weights"
    ),
    of_law(
        54,
        "one uniform for all strata",
        stratified,
        "one uniform for all strata",
        functools.partial(draw_ancestors, scheme="stratified"),
    ),
    of_round(55, "sorted ancestors, payload not sorted", "payload not sorted"),
    of_law(
        56,
        "killing with W instead of W / max W",
        killing,
        "not relative to the largest",
        killing_one_by_one,
    ),
    of_round(57, "ancestors applied twice", "applied twice"),
    of_round(58, "one leaf not gathered", "leaf not gathered"),
    of_round(59, "copies share storage", "copies share storage"),
)
