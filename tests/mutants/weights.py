"""Mutants 60 to 77: mistakes with weights and evidence in sequential Monte Carlo.

A particle filter as people write it by hand, :func:`filter_by_hand`, takes most of them; the
others are small blocks in place of the right ones of :mod:`bayeskit.inference`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import (
    FeynmanKac,
    Target,
    TemperedPath,
    blocks,
    extend,
    random,
    resample,
    scan,
    schedule,
    weigh,
)
from bayeskit.inference.population import effective_sample_size, reweigh
from bayeskit.validation import Atoms, Level, battery, validate
from tests.inference import finite_models as fm
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

FAMILY = "SMC weights"

CHAIN = fm.random_chain(num_states=2, num_steps=3)
PATHS = fm.path_model(CHAIN)
GAMMA = fm.path_measure(CHAIN)
PAIR = fm.filter_blocks(PATHS, num_particles=2)
# Tempering on three states, and on two where chains of moves have many paths.
MODEL = fm.tempered_model(num_states=3)
COIN = fm.tempered_model(num_states=2, seed=4)
SERIES = battery()["linear_gaussian"]
# Particles of a sampled double: with two the evidence varies too much for a test of its mean.
MANY = 32
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=4)


# ---------------------------------------------------------------- a filter written by hand


def log_mean(log_weights):
    return jax.nn.logsumexp(log_weights) - math.log(len(log_weights))


def filter_by_hand(key, model, num, *, num_first=None, ess_below=1.1, mistake=""):
    """Run a particle filter with weights that are not normalised, evidence summed by hand.

    Returns the log estimate and one particle, chosen by its weight.
    """
    num_first = num_first or num
    first_key, choice_key, *step_keys = random.split(key, model.num_steps + 1)
    particles = random.lanes(lambda k, _: model.initial(k), first_key, jnp.arange(num_first))
    log_w = jax.vmap(lambda x: model.log_g0(0, x))(particles)
    log_z, last = jnp.zeros(()), jnp.zeros(())
    if mistake == "mean over the later number":
        log_z = log_z + math.log(num_first / num)
    if mistake == "mean of the raw potentials":
        log_z = log_z + log_mean(log_w)

    def resampled(resample_key, carried):
        particles, log_w, log_z, last = carried
        ancestors = random.categorical(resample_key, log_w, num)
        # What the weights were stays in the evidence, and nowhere else.
        counted = jnp.zeros_like(log_w[:num])
        if mistake == "stale weights":
            counted = log_w[ancestors]
        if mistake not in ("total is lost", "mean of the raw potentials"):
            log_z = log_z + log_mean(log_w)
        last = log_mean(log_w)
        return accel.take_particles(particles, ancestors), counted, log_z, last

    for t, step_key in enumerate(step_keys, start=1):
        resample_key, move_key = random.split(step_key)
        carried = (particles, log_w, log_z, last)
        if num_first != num and t == 1:
            carried = resampled(resample_key, carried)
        else:
            ess = effective_sample_size(jax.nn.log_softmax(log_w))
            carried = random.cond(ess < ess_below * num, resampled, resample_key, carried)
        previous, log_w, log_z, last = carried
        particles = random.lanes(lambda k, x, t=t: model.kernel(k, t, x), move_key, previous)
        log_g = jax.vmap(lambda a, b, t=t: model.log_g(t, a, b))(previous, particles)
        log_w = log_w + log_g
        if mistake == "mean of the raw potentials":
            log_z = log_z + log_mean(log_g)
    chosen = random.categorical(choice_key, log_w)
    if mistake != "mean of the raw potentials":
        log_z = log_z + log_mean(log_w)
    if mistake == "counted again at the end":
        log_z = log_z + last
    return log_z, jax.tree.map(lambda x: x[chosen], particles)


def by_hand(mistake, **options):
    """Both checks of one mistake of the filter: on every path, and on the linear model."""

    def exactly(planted):
        estimate = functools.partial(
            filter_by_hand, model=PATHS, num=2, mistake=mistake if planted else "", **options
        )
        return validate_exactly(estimate, expected=GAMMA, law="unbiased")

    def by_sampling(planted):
        more = {**options, "num_first": 24} if "num_first" in options else options
        estimate = functools.partial(
            filter_by_hand,
            model=SERIES.target,
            num=16,
            mistake=mistake if planted else "",
            **more,
        )
        return validate(estimate, SERIES, law="unbiased", level=LEVEL)

    return {"exact": exactly, "evidence": by_sampling}


def hand_written(number, name, mistake, **options):
    checks = by_hand(mistake, **options)
    return Mutant(number, name, FAMILY, checks, found_by=tuple(checks))


# ---------------------------------------------------------------- tempering


def tempered(number, name, block_of, expected, num=2, **more):
    """Return a mutant of a tempered sampler, run with few particles or with many."""

    def check(planted, *, num=num, by=validate_exactly):
        return by(block_of(planted, num), expected=expected)

    checks = {**more, **exact_and_sampled(check, num=MANY)}
    return Mutant(number, name, FAMILY, checks, found_by=tuple(checks))


def tempering(planted, num):
    """65: the new inverse temperature stands where its difference to the old one should."""

    def weighing(path):
        if not planted:
            return weigh(path.increment)
        wrong = lambda stage, particle: stage.current * particle.components[1]
        return weigh(dataclasses.replace(path.increment, function=wrong))

    return fm.tempered_blocks(MODEL, num, weighing=weighing)


def solved_schedule(planted, *, by=validate_exactly):
    """66: the effective sample size is solved for with the sign of the likelihood reversed."""
    wanted = 0.7 * 3
    sign = -1.0 if planted else 1.0
    log_prior, log_likelihood = MODEL.log_prior, MODEL.log_likelihood

    def relative_size(key):
        states = random.categorical(key, fm.log_table(log_prior), 3)
        values = fm.log_table(log_likelihood)[states]
        equal = jnp.full(3, -math.log(3.0))
        step = accel.temper_step(sign * values, equal, jnp.zeros(()), 0.7)
        size = effective_sample_size(jax.nn.log_softmax(step * values))
        # At the end of the path the size may be larger; the root is good to 8 digits.
        return jnp.where(step < 1.0, jnp.log(jnp.round(size / wanted, 7)), 0.0)

    return by(relative_size, expected=0.0, law="unbiased")


class OldTemperature(TemperedPath):
    """Declares the current temperature and gives the density of the one before."""

    def at(self, stage):
        return super().at(stage._replace(current=stage.previous))


def moved_at(planted, num=2):
    """67: particles move at the temperature that they have left."""
    path_type = OldTemperature if planted else TemperedPath
    return fm.tempered_blocks(MODEL, num, path_type=path_type)


def moved_before_weighing(planted):
    """67, where the order of the blocks says it."""
    if not planted:
        return validate(moved_at(False), expected=MODEL.measure())
    path = TemperedPath(MODEL.target)
    return fm.tempering_start(path, 2) >> blocks.until(
        path.is_complete,
        schedule(path, ladder=fm.LADDER)
        >> blocks.move(MODEL.kernel, path, repeats=1)
        >> weigh(path.increment),
    )


class AnyParents(blocks.Move):
    """Keeps all states without asking that the weights of their parents are equal."""

    def arrow(self, law):
        return law.then(law.measure, self.name)


def waste_free(planted, moving, num=4):
    """72: parents, each with both states of its chain; planted, with their weights."""
    path = TemperedPath(COIN.target)
    parents = resample("systematic", num=num // 2)
    chains = moving(COIN.kernel, path, keep="all", repeats=1)
    stage = schedule(path, ladder=(0.0, 1.0)) >> weigh(path.increment)
    stage = stage >> chains if planted else stage >> parents >> chains
    num = num // 2 if planted else num
    return fm.tempering_start(path, num) >> blocks.until(path.is_complete, stage)


class StartNotCounted(blocks.Move):
    """The weight of a state leaves the first state of its chain out of the count."""

    def run(self, key, population=None):
        moved, info = super().run(key, population)
        counted = moved.num_particles - population.num_particles
        log_weights = jnp.full_like(moved.log_weights, -math.log(counted))
        return moved._replace(log_weights=log_weights), info


def counted_chains(planted, num):
    """72: the first state of each chain is left out of the count."""
    moving = StartNotCounted if planted else blocks.move
    return waste_free(False, moving, num)


# ---------------------------------------------------------------- moves of a filter


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GibbsOfLastState(blocks.Block):
    """Draw the last state of each path anew, given the one before and the observation."""

    planted: bool

    @property
    def name(self):
        return "gibbs of the last state"

    def run(self, key, population=None):
        t = population.stage

        def one(lane_key, path):
            logits = fm.log_table(CHAIN.log_transition)[path[t - 1]]
            if not self.planted:  # 68: the observation is left out of the conditional
                logits = logits + fm.log_table(CHAIN.log_potential)[t]
            return path.at[t].set(random.categorical(lane_key, logits))

        return population._replace(particles=random.lanes(one, key, population.particles)), {}

    def arrow(self, law):
        return law.then(law.measure, self.name)


def resample_move(planted, *, num=2, by=validate_exactly):
    filter_ = fm.filter_blocks(PATHS, num)
    step = resample("multinomial") >> filter_.extension >> GibbsOfLastState(planted)
    return by(filter_.start >> scan(step), expected=GAMMA)


# ---------------------------------------------------------------- look-ahead and proposals


def log_eta(t, path):
    """A look-ahead that has nothing to do with the model: any must do."""
    return jnp.where(path[t - 1] == 1, 0.7, -0.4) * (1.0 + t)


def auxiliary_filter(key, *, num=2, mistake=""):
    """Resample by the weights times η, then divide by η of the parent."""
    first_key, choice_key, *step_keys = random.split(key, CHAIN.num_steps + 1)
    paths = random.lanes(lambda k, _: PATHS.initial(k), first_key, jnp.arange(num))
    log_w = jax.vmap(lambda x: PATHS.log_g0(0, x))(paths)
    log_z = jnp.zeros(())
    for t, step_key in enumerate(step_keys, start=1):
        resample_key, move_key = random.split(step_key)
        eta = jax.vmap(lambda x, t=t: log_eta(t, x))(paths)
        ancestors = random.categorical(resample_key, log_w + eta, num)
        log_z = log_z + log_mean(log_w + eta)
        parents = paths[ancestors]
        divisor = eta[ancestors]
        if mistake == "not divided":
            divisor = 0.0
        if mistake == "divided by the slot":
            divisor = eta
        paths = random.lanes(lambda k, x, t=t: PATHS.kernel(k, t, x), move_key, parents)
        log_w = jax.vmap(lambda a, b, t=t: PATHS.log_g(t, a, b))(parents, paths) - divisor
    chosen = random.categorical(choice_key, log_w)
    return log_z + log_mean(log_w), paths[chosen]


def auxiliary(name, mistake):
    def check(planted, *, num=2, by=validate_exactly):
        estimate = functools.partial(
            auxiliary_filter, num=num, mistake=mistake if planted else ""
        )
        return by(estimate, expected=GAMMA, law="unbiased")

    checks = exact_and_sampled(check, num=MANY)
    return Mutant(69, name, FAMILY, checks, found_by=tuple(checks))


def guided_on_line(log_weight):
    """The linear Gaussian model with a proposal of its own, whose weight may be wrong."""
    model = SERIES.target

    def log_normal(x, mean, scale):
        return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)

    def log_g(t, before, x):
        transition = lambda a: log_normal(x, 0.3 + 0.8 * a, 0.7)
        proposal = lambda a: log_normal(x, 0.7 + 0.7 * a, 0.9)
        return model.log_g(t, before, x) + log_weight(transition, proposal, before, x)

    kernel = lambda key, t, x: 0.7 + 0.7 * x + 0.9 * random.normal(key)
    log_g0 = lambda x: model.log_g0(0, x)
    return FeynmanKac(
        initial=model.initial.function,
        log_g0=log_g0,
        kernel=kernel,
        log_g=log_g,
        num_steps=model.num_steps,
    )


def guided(number, name, wrong_on_chain, wrong_on_line):
    """Return a mutant of the weight of a guided filter."""
    right_on_line = lambda transition, proposal, before, x: (
        transition(before) - proposal(before)
    )

    def exactly(planted):
        log_g = PATHS.log_g
        if planted:
            log_g = dataclasses.replace(log_g, function=wrong_on_chain)
        return validate(PAIR.with_extension(extend(PATHS.kernel, log_g)), expected=GAMMA)

    def by_sampling(planted):
        model = guided_on_line(wrong_on_line if planted else right_on_line)
        block = fm.filter_blocks(model, 16).with_resampling(resample())
        return validate(block, SERIES, level=LEVEL)

    checks = {"exact": exactly, "evidence": by_sampling}
    return Mutant(number, name, FAMILY, checks, found_by=tuple(checks))


def without_correction(t, before, path):
    return fm.log_table(CHAIN.log_potential)[t, path[t]]


def weighed_at_current(t, before, path):
    transition = fm.log_table(CHAIN.log_transition)[path[t], path[t]]
    proposal = fm.log_table(CHAIN.log_proposal)[before[t - 1], path[t]]
    return fm.log_table(CHAIN.log_potential)[t, path[t]] + transition - proposal


# ---------------------------------------------------------------- keys


@dataclasses.dataclass(frozen=True, eq=False)
class ExtendByLoop(blocks.Extend):
    """Draws particle by particle in a loop."""

    planted: bool = False

    def run(self, key, population=None):
        stage, before = population.stage, population.particles
        keys = random.split(key, population.num_particles)
        if self.planted:  # 73: one key for all of them
            keys = [keys[0]] * population.num_particles
        after = [self.kernel(k, stage, x) for k, x in zip(keys, before, strict=True)]
        after = jnp.stack(after)
        log_g = jax.vmap(lambda a, b: self.log_g(stage, a, b))(before, after)
        return reweigh(population._replace(particles=after), log_g), {}


def one_key_for_all(model, num, planted):
    filter_ = fm.filter_blocks(model, num)
    extension = ExtendByLoop(model.kernel, model.log_g, planted)
    return filter_.with_extension(extension)


def one_noise_filter(num, planted):
    """The same on the linear model, without a loop over many particles."""

    class Extension(blocks.Extend):
        def run(self, key, population=None):
            stage, before = population.stage, population.particles
            if not planted:
                return super().run(key, population)
            after = jax.vmap(lambda x: self.kernel(key, stage, x))(before)  # 73: one key
            log_g = jax.vmap(lambda a, b: self.log_g(stage, a, b))(before, after)
            return reweigh(population._replace(particles=after), log_g), {}

    model = SERIES.target
    return fm.filter_blocks(model, num).with_extension(Extension(model.kernel, model.log_g))


@dataclasses.dataclass(frozen=True, eq=False)
class ScanByLoop(blocks.Scan):
    """Goes through the times in a loop."""

    planted: bool = False

    def run(self, key, population=None):
        keys = random.split(key, len(self.times))
        for time in self.times:
            # 74: the key of the first time serves for all
            step_key = keys[0] if self.planted else keys[time - self.times[0]]
            staged = population._replace(stage=jnp.asarray(time, jnp.int32))
            population, info = self.body.run(step_key, staged)
        return population, info


def one_key_for_all_times(model, num, planted):
    filter_ = fm.filter_blocks(model, num)
    body = resample("multinomial") >> filter_.extension
    steps = ScanByLoop(body, range(1, model.num_steps), model.measure, planted)
    return filter_.start >> steps


# ---------------------------------------------------------------- static parameters


LOG_PRIOR = np.log([0.5, 0.3, 0.2])
LOG_LIKELIHOOD = np.log([[0.7, 0.2, 0.4], [0.3, 0.8, 0.5], [0.6, 0.1, 0.9]])


def ibis(planted, *, num=2, by=validate_exactly):
    """Iterated batch importance sampling; 75 counts the first observation twice."""

    def kernel(key, t, theta):
        proposal_key, accept_key = random.split(key)
        log_posterior = fm.log_table(LOG_PRIOR + np.cumsum(LOG_LIKELIHOOD, axis=0))[
            jnp.maximum(t - 1, 0)
        ]
        proposed = random.categorical(proposal_key, jnp.zeros(3))
        accepted = random.accept(accept_key, log_posterior[proposed] - log_posterior[theta])
        return jnp.where(accepted, proposed, theta)

    model = FeynmanKac(
        initial=lambda key: random.categorical(key, fm.log_table(LOG_PRIOR)),
        log_g0=lambda theta: fm.log_table(LOG_LIKELIHOOD)[0, theta],
        kernel=kernel,
        log_g=lambda t, before, theta: fm.log_table(LOG_LIKELIHOOD)[t, theta],
        num_steps=3,
    )
    filter_ = fm.filter_blocks(model, num)
    # The start has weighed by y_0 already.
    times = range(0 if planted else 1, model.num_steps)
    block = filter_.start >> scan(resample("multinomial") >> filter_.extension, times)
    return by(block, expected=Atoms(np.arange(3), np.exp(LOG_PRIOR + LOG_LIKELIHOOD.sum(0))))


# ---------------------------------------------------------------- the number of trials


NEEDED = 3  # trials go on until so many are alive
MAX_TRIALS = 40  # more have a probability below 1e-15
INITIAL, TRANSITION = np.array([0.4, 0.6]), np.array([[0.7, 0.3], [0.2, 0.8]])
ALIVE = np.array([0.7, 0.95])


def log_alive(num_trials, planted, needed=NEEDED):
    """Log of the unbiased estimate of the probability to be alive."""
    # 76: the share of the living, though the last trial is always one of them
    wrong = jnp.log(needed / num_trials)
    return wrong if planted else jnp.log((needed - 1.0) / (num_trials - 1.0))


def draw_num_trials(key, success):
    """The number of trials until NEEDED are alive."""
    num = np.arange(NEEDED, MAX_TRIALS)
    log_ways = np.log([math.comb(n - 1, NEEDED - 1) for n in num])
    log_mass = log_ways + NEEDED * jnp.log(success) + (num - NEEDED) * jnp.log1p(-success)
    return NEEDED + random.categorical(key, log_mass)


def alive_filter(key, *, planted):
    """Two steps; the second starts from one of the living of the first."""
    first_key, state_key, second_key = random.split(key, 3)
    mass = fm.log_table(INITIAL * ALIVE)
    first = draw_num_trials(first_key, mass.sum())
    state = random.categorical(state_key, jnp.log(mass))
    second = draw_num_trials(second_key, (fm.log_table(TRANSITION) @ ALIVE)[state])
    return log_alive(first, planted) + log_alive(second, planted)


def alive_exactly(planted):
    estimate = functools.partial(alive_filter, planted=planted)
    log_evidence = float(np.log((INITIAL * ALIVE) @ TRANSITION @ ALIVE))
    return validate_exactly(estimate, expected=log_evidence, law="unbiased")


def alive_on_line(key, *, planted):
    """Standard normal draws, alive within 1 of 0.5; 64 trials hold 8 living, almost surely."""
    x = random.normal(key, (64,))
    alive = jnp.abs(x - 0.5) < 1.0
    count = jnp.cumsum(alive)
    num_trials = 1 + jnp.argmax(count == 8)
    return log_alive(num_trials, planted, needed=8), x[jnp.argmax(alive)]


def alive_by_sampling(planted):
    low, high = (0.5 * math.erfc(-z / math.sqrt(2.0)) for z in (-0.5, 1.5))
    level = lambda key: low + (high - low) * random.uniform(key)
    target = Target(
        log_density=lambda x: jnp.where(jnp.abs(x - 0.5) < 1.0, -0.5 * x**2, -jnp.inf),
        sample_exact=lambda key: jax.scipy.special.ndtri(level(key)),
        name="truncated normal",
    )
    estimate = functools.partial(alive_on_line, planted=planted)
    options = {"expected": math.log(high - low), "law": "unbiased", "level": LEVEL}
    return validate(estimate, target, **options)


# ---------------------------------------------------------------- missing data


def missing_observation(planted, *, num=2, by=validate_exactly):
    """77: the second observation is missing, and weighs as if it were impossible."""
    observed, mean = np.array([0.3, np.nan, -0.4]), np.array([-0.5, 1.0])

    def log_likelihood(t, state):
        log_density = -0.5 * (fm.log_table(observed)[t] - fm.log_table(mean)[state]) ** 2
        nothing_seen = -jnp.inf if planted else 0.0
        return jnp.where(jnp.isnan(log_density), nothing_seen, log_density)

    seen = np.nan_to_num(-0.5 * (observed[:, None] - mean) ** 2, nan=0.0)
    chain = fm.random_chain(guided=False)._replace(log_potential=seen)
    model = fm.last_state_model(chain)
    log_g = dataclasses.replace(model.log_g, function=lambda t, a, x: log_likelihood(t, x))
    extension = extend(model.kernel, log_g)
    block = fm.filter_blocks(model, num).with_extension(extension)
    return by(block, expected=fm.last_state_measure(chain))


# ---------------------------------------------------------------- the list


def exactly(block):
    return lambda planted: validate(block(planted), expected=GAMMA)


def by_sampling(block):
    return lambda planted: validate(block(planted), SERIES, level=LEVEL)


def growth_with_one_key(planted):
    """Particles that all draw the same noise: adding more of them adds nothing."""
    build = lambda num: one_noise_filter(num, planted)
    return validate(build, SERIES, law="consistent", level=LEVEL)


MUTANTS: tuple[Mutant, ...] = (
    hand_written(60, "weights kept after resampling", "stale weights"),
    hand_written(61, "weights reset, their total lost", "total is lost"),
    hand_written(
        62,
        "evidence from the mean of the raw potentials, though weights are uneven",
        "mean of the raw potentials",
        ess_below=0.75,
    ),
    hand_written(
        63, "evidence counted at resampling and at the end", "counted again at the end"
    ),
    hand_written(
        64, "mean over the later number of particles", "mean over the later number", num_first=3
    ),
    tempered(65, "tempering by the new temperature", tempering, MODEL.measure()),
    Mutant(
        66,
        "schedule solved with the opposite sign",
        FAMILY,
        exact_and_sampled(solved_schedule),
        found_by=("exact", "sampled"),
    ),
    tempered(
        67,
        "move at the old temperature",
        moved_at,
        MODEL.measure(),
        build=moved_before_weighing,
    ),
    Mutant(
        68,
        "move on the wrong conditional after an extension",
        FAMILY,
        exact_and_sampled(resample_move, num=MANY),
        found_by=("exact", "sampled"),
    ),
    auxiliary("auxiliary weight not divided out", "not divided"),
    auxiliary("auxiliary weight of the slot, not of the parent", "divided by the slot"),
    guided(
        70,
        "guided filter without transition over proposal",
        without_correction,
        lambda transition, proposal, before, x: 0.0,
    ),
    guided(
        71,
        "weight at the current state in place of the parent",
        weighed_at_current,
        lambda transition, proposal, before, x: transition(before) - proposal(x),
    ),
    Mutant(
        72,
        "waste-free with parents that are not resampled",
        FAMILY,
        # A loop that runs refuses that the number of particles doubles in each round.
        {
            "build": lambda planted: validate(
                waste_free(planted, blocks.move), expected=COIN.measure()
            ),
            "exact": lambda planted: validate(
                waste_free(planted, AnyParents), expected=COIN.measure()
            ),
        },
        found_by=("build", "exact"),
    ),
    tempered(
        72, "waste-free that does not count the start", counted_chains, COIN.measure(), num=4
    ),
    Mutant(
        73,
        "one key for all particles",
        FAMILY,
        {
            "keys": exactly(lambda planted: one_key_for_all(PATHS, 2, planted)),
            # Means are right all the same; that nothing averages out shows as N grows.
            "evidence": by_sampling(lambda planted: one_key_for_all(SERIES.target, 8, planted)),
            "growth": growth_with_one_key,
        },
        found_by=("keys", "growth"),
    ),
    Mutant(
        74,
        "one key for all times",
        FAMILY,
        {
            "keys": exactly(lambda planted: one_key_for_all_times(PATHS, 2, planted)),
            "evidence": by_sampling(
                lambda planted: one_key_for_all_times(SERIES.target, 8, planted)
            ),
        },
        found_by=("keys", "evidence"),
    ),
    Mutant(
        75,
        "first observation in the initial target and in the weight",
        FAMILY,
        exact_and_sampled(ibis, num=MANY),
        found_by=("exact", "sampled"),
    ),
    Mutant(
        76,
        "log of the wrong number of trials",
        FAMILY,
        {"exact": alive_exactly, "evidence": alive_by_sampling},
        found_by=("exact", "evidence"),
    ),
    Mutant(
        77,
        "missing data of likelihood 0",
        FAMILY,
        # Sampled, no run has any evidence, which leaves no mean to test: inconclusive.
        exact_and_sampled(missing_observation, num=MANY),
        found_by=("exact",),
    ),
)
