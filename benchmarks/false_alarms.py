"""How often does the validator accuse a correct block? Many calls, no mistake to be found.

Calls :func:`bayeskit.validate` on correct kernels, steps, samplers, blocks, targets and
estimates in turn, each time with another key, once with alpha = 1e-6 and once with
alpha = 0.05. An exact check cannot raise a false alarm, so only statistical ones are counted.
Kinds of call that take longer come up more rarely.

Prints one JSON line for each kind of call and each alpha, and at the end the rates: with
alpha = 1e-6 there must be no alarm, with alpha = 0.05 at most 0.05 and three standard errors.
The page of the documentation is made from these lines::

    python benchmarks/false_alarms.py > benchmarks/results/false_alarms.jsonl
    python benchmarks/false_alarms.py --page benchmarks/results/false_alarms.jsonl
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import Target
from bayeskit.inference import (
    HMC,
    MALA,
    Independent,
    NoUTurn,
    RandomWalk,
    extend,
    random,
    resample,
    scan,
    spawn,
    weigh,
)
from bayeskit.validation import Atoms, Level, battery, rank_test, validate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "false_alarms.md"
VERDICTS = ("pass", "fail", "inconclusive")
# Small stages: the rate of false alarms is promised for every number of replicates.
LEVEL = Level(num_stages=3, growth=2, first=20_000, num_frequencies=8)
RANKS = Level(num_stages=3, growth=2, first=25_000, num_frequencies=8)
# At five numbers of particles each.
GROWTH = Level(num_stages=3, growth=2, first=50_000, num_frequencies=8)
MASSES = np.array([1.0, 2.0, 3.0])


class Case(NamedTuple):
    """A call of the validator on something correct, in every so many rounds."""

    call: Callable
    rounds: int = 1


def draw_normal_model(key):
    first, second = random.split(key)
    theta = 0.5 + random.normal(first)
    return {"theta": theta, "y": theta + 2.0 * random.normal(second)}


def gibbs(key, state):
    mean = (0.5 + state["y"] / 4.0) / 1.25
    return {"theta": mean + random.normal(key) / jnp.sqrt(1.25), "y": state["y"]}


def autoregression(key, x):
    return 2.0 + 0.6 * (x - 2.0) + 0.8 * random.normal(key)


def draw_normal(key):
    return 2.0 + random.normal(key)


def draw_skewed(key):
    return battery()["skewed"].target.sample_exact(key)


def skewed_estimate(key):
    """Return a log-normal estimate of 1, as skewed as a test of its mean can bear."""
    return 0.7 * random.normal(key) - 0.5 * 0.7**2


def estimate_of(num):
    """Return an estimate with a bias of order 1/num, which is what growth is about."""

    def estimate(key):
        return -0.5 / num + random.normal(key) / jnp.sqrt(num)

    return estimate


def draw_state(key):
    """Draw a state in a way that cannot be enumerated, so that its draws are counted."""
    return jax.random.categorical(key, jnp.log(MASSES))


@functools.cache
def bootstrap_filter():
    model = battery()["linear_gaussian"].target
    start = spawn(model.initial, 50) >> weigh(model.log_g0)
    step = resample("systematic", ess_below=0.5) >> extend(model.kernel, model.log_g)
    return start >> scan(step)


def call(*arguments, **options) -> Callable:
    """Return a call of the validator that waits for its alpha and key."""
    return functools.partial(validate, *arguments, **options)


def cases() -> dict[str, Case]:
    """Return calls of the validator on correct blocks, by name."""
    kernels = {
        "RandomWalk": RandomWalk(),
        "MALA": MALA(),
        "HMC": HMC(),
        "Independent": Independent(),
    }
    models = ("skewed", "correlated_normal", "banana", "student_t")
    states = Target(
        log_density=lambda i: jnp.log(jnp.asarray(MASSES))[i],
        sample_exact=draw_state,
        has_gradient=False,
        name="three states",
    )
    joint = {"start": draw_normal_model, "level": LEVEL}
    unbiased = {"expected": 0.0, "law": "unbiased", "level": LEVEL}
    growth = {"expected": 0.0, "law": "consistent", "level": GROWTH}
    skewed, series = battery()["skewed"], battery()["linear_gaussian"]
    return {
        **{
            f"{name} on {model}": Case(call(kernel, models=model, level=LEVEL))
            for (name, kernel), model in itertools.product(kernels.items(), models)
        },
        "RandomWalk, level quick": Case(call(RandomWalk(), models="skewed"), 5),
        "NoUTurn on skewed": Case(call(NoUTurn(), models="skewed", level=LEVEL), 10),
        "joint step": Case(call(gibbs, **joint)),
        "reversible joint step": Case(call(gibbs, law="reversible", **joint)),
        "ranks": Case(functools.partial(rank_test, autoregression, draw_normal, level=RANKS)),
        "sampler against the exact one": Case(
            call(draw_skewed, skewed, law="draws", level=LEVEL)
        ),
        "two samplers": Case(call(draw_normal, expected=draw_normal, law="same", level=LEVEL)),
        "filter, evidence and weights": Case(call(bootstrap_filter(), series, level=LEVEL)),
        "skewed estimate of the evidence": Case(call(skewed_estimate, **unbiased)),
        "growth of an estimate": Case(call(estimate_of, **growth), 4),
        "target banana": Case(call(battery()["banana"], level=LEVEL), 4),
        "frequencies of three states": Case(
            call(states, expected=Atoms(np.arange(3), MASSES)), 2
        ),
        "resampling at scale": Case(call("systematic", level="scale"), 20),
    }


def turns(calls: dict[str, Case]) -> Iterator[str]:
    """Return names of cases for ever, those that are slow in few rounds."""
    for number in itertools.count():
        yield from (name for name, case in calls.items() if number % case.rounds == 0)


def write_page(rows: list[dict]) -> None:
    cases = [row for row in rows if "case" in row]
    sums = [row for row in rows if "rate" in row]
    lines = [
        "# False alarms",
        "",
        "<!-- Written by benchmarks/false_alarms.py: do not edit. -->",
        "",
        "The bound alpha on the probability that a correct block fails is a theorem as long",
        "as the p-values are valid. Here it is tried: the validator is called again and again,",
        "each time with another key, on kernels, steps, samplers, filters, targets and",
        "estimates that are right. An alarm is a verdict of fail.",
        "",
        "| alpha | calls | alarms | rate | at most | inconclusive | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sums:
        lines.append(
            f"| {row['alpha']:g} | {row['calls']} | {row['alarms']} | {row['rate']:.4f} | "
            f"{row['at_most']:.4f} | {row['inconclusive']} | {row['cpu_seconds']:.0f} |"
        )
    lines += [
        "",
        "At alpha = 0.05 the rate may be 0.05 and three standard errors. It is far below, and",
        "that is the price of certainty: the comparisons of one call are correlated and are",
        "counted as if they were not, and most p-values are bounds for every distribution.",
        "Means of estimates, weights and growth are tested as normal, with a correction for",
        "their skewness.",
        "",
        "## By kind of call",
        "",
        "| what was validated | "
        + " | ".join(f"alpha = {row['alpha']:g}" for row in sums)
        + " |",
        "|---|" + "---|" * len(sums),
    ]
    for name in dict.fromkeys(row["case"] for row in cases):
        counts = [
            f"{row.get('fail', 0)} of {sum(row.get(v, 0) for v in VERDICTS)}"
            for row in cases
            if row["case"] == name
        ]
        lines.append(f"| {name} | {' | '.join(counts)} |")
    lines += ["", "```bash", "python benchmarks/false_alarms.py", "```", ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="with alpha = 1e-6")
    parser.add_argument("--calls-at-5-percent", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="write the page from these lines")
    arguments = parser.parse_args()
    if arguments.page:
        lines = arguments.page.read_text(encoding="utf-8").splitlines()
        write_page([json.loads(line) for line in lines])
        return
    calls = cases()
    key = itertools.count(arguments.seed * 10**6)
    for alpha, num in ((1e-6, arguments.calls), (0.05, arguments.calls_at_5_percent)):
        began = time.process_time()
        verdicts: dict[str, Counter] = {name: Counter() for name in calls}
        for name in itertools.islice(turns(calls), num):
            verdicts[name][calls[name].call(alpha=alpha, key=next(key)).verdict] += 1
        for name, counts in verdicts.items():
            print(json.dumps({"alpha": alpha, "case": name, **counts}), flush=True)
        alarms = sum(counts["fail"] for counts in verdicts.values())
        bound = alpha + 3.0 * math.sqrt(alpha * (1.0 - alpha) / max(num, 1))
        summary = {
            "alpha": alpha,
            "calls": num,
            "alarms": alarms,
            "inconclusive": sum(counts["inconclusive"] for counts in verdicts.values()),
            "rate": alarms / max(num, 1),
            "at_most": bound if alpha > 1e-3 else 0.0,
            "cpu_seconds": round(time.process_time() - began, 1),
        }
        print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
