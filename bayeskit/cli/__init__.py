"""The command line: ``bayeskit demo``, ``fit``, ``validate``, ``bench`` and ``info``.

Exit codes: 0 the result can be trusted as far as the checks tell, 1 a check or the sampler
failed, 2 wrong usage or data that cannot be used, 3 a validation was inconclusive.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from bayeskit.errors import BayeskitError, InvalidDataError

__all__ = ["main"]


_VALIDATION_LEVELS = ("quick", "full", "exact", "quadrature", "ranks", "scale")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["bench"]:
        from bayeskit.accel.bench import main as bench

        return bench(arguments[1:], prog="bayeskit bench")
    parser = _parser()
    options = parser.parse_args(arguments)
    from bayeskit.accel.dispatch import wanted_backend

    try:
        wanted_backend()
    # BAYESKIT_ACCEL is wrong, and no command would run.
    except (BayeskitError, ValueError) as error:
        print(f"bayeskit: {error}", file=sys.stderr)
        return 2
    try:
        return options.run(options)
    # Any other error is a fault of the program, and shows where.
    except (BayeskitError, OSError) as error:
        print(f"bayeskit {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidDataError | OSError) else 1


def _parser() -> argparse.ArgumentParser:
    description = "Bayesian inference from blocks that compose, and a check of their laws."
    parser = argparse.ArgumentParser(prog="bayeskit", description=description)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="versions and devices, for bug reports")
    info.set_defaults(run=_info)

    demo = commands.add_parser(
        "demo", help="logistic regression on scikit-learn's breast-cancer data, with a report"
    )
    demo.set_defaults(run=_demo)

    fit = commands.add_parser("fit", help="fit a regression to the table of a CSV file")
    fit.add_argument("table", metavar="DATA.csv")
    fit.add_argument("--target", required=True, metavar="COLUMN", help="column to explain")
    fit.add_argument("--family", required=True, choices=("logistic", "linear", "poisson"))
    fit.add_argument("--columns", metavar="A,B,C", help="predictors; default: all the others")
    fit.add_argument("--engine", choices=("smc", "nuts"), default="smc")
    fit.add_argument("--num-particles", type=_count, default=10_000, metavar="N")
    fit.set_defaults(run=_fit)

    check = commands.add_parser(
        "validate",
        help="check a block against the law it claims",
        epilog="Ends with 0 for a pass, 1 for a fail, 3 for inconclusive, 2 if nothing could "
        "be checked. What needs start=, expected= or observed= is validated in Python: name "
        "a function that returns the report.",
    )
    check.add_argument(
        "what",
        metavar="MODULE:NAME",
        help="a kernel, block, function or estimator, a Report, or a function without "
        "parameters that returns one of these",
    )
    check.add_argument("--target", metavar="MODULE:NAME", help="what it leaves invariant")
    check.add_argument("--law", help="the law to check; default: the one it declares")
    check.add_argument("--level", choices=_VALIDATION_LEVELS)
    check.add_argument("--alpha", type=_probability, help="bound on false alarms")
    check.add_argument("--budget", type=float, metavar="SECONDS", help="CPU time")
    check.add_argument("--plot", metavar="FILE", help="picture of the most suspicious tests")
    check.set_defaults(run=_validate)

    # Listed here; its options are its own.
    commands.add_parser("bench", help="speed of the particle kernels here", add_help=False)

    for command in (demo, fit):
        command.add_argument("--out", required=True, metavar="DIR", help="folder to write")
        command.add_argument("--seed", type=_whole, default=0)
    check.add_argument("--seed", type=_whole)
    for command in (info, demo, fit, check):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {value}")
    return value


def _probability(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {value}")
    return value


def _info(options: argparse.Namespace) -> int:
    import jax

    from bayeskit.accel import backend_report
    from bayeskit.cli.report import versions

    facts: dict[str, Any] = {
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
        "array_kernels": backend_report(),
        "float64_by_default_in_jax": bool(jax.config.read("jax_enable_x64")),
    }
    if options.json:
        _print_json(facts)
    else:
        for name, version in facts["versions"].items():
            print(f"{name:<14} {version}")
        print(f"{'devices':<14} {', '.join(facts['devices'])}")
        for name, kernel in facts["array_kernels"].items():
            print(f"{name:<24} {kernel}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from bayeskit.cli.workflow import demo

    return _finish(demo(options.out, seed=options.seed, quiet=options.json), options.json)


def _fit(options: argparse.Namespace) -> int:
    from bayeskit.cli.workflow import fit

    summary = fit(
        options.table,
        target=options.target,
        family=options.family,
        columns=[c.strip() for c in options.columns.split(",")] if options.columns else None,
        engine=options.engine,
        num_particles=options.num_particles,
        out=options.out,
        seed=options.seed,
        quiet=options.json,
    )
    return _finish(summary, options.json)


def _validate(options: argparse.Namespace) -> int:
    from bayeskit.cli.check import check, check_plot_file, save_plot

    given = {
        "target": options.target,
        "law": options.law,
        "level": options.level,
        "alpha": options.alpha,
        "key": options.seed,
        "budget_s": options.budget,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.plot:
        # Before minutes of work, not after.
        check_plot_file(options.plot)
    report = check(options.what, given)
    if report is None:
        return 2
    if options.json:
        _print_json(report.to_dict())
    else:
        print(report)
    if options.plot:
        save_plot(report, options.plot)
    return {"pass": 0, "fail": 1, "inconclusive": 3}[report.verdict]


def _finish(summary: dict[str, Any], as_json: bool) -> int:
    if as_json:
        _print_json(summary)
    return 0 if summary["trusted"] else 1


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(_plain(facts), allow_nan=False))


def _plain(value: Any) -> Any:
    """Return a value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
