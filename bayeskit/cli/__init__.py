"""The command line: ``bayeskit demo``, ``bayeskit fit`` and ``bayeskit info``.

Exit codes: 0 the result can be trusted as far as the checks tell, 1 a check failed, 2 wrong
usage or data that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from bayeskit.errors import BayeskitError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (BayeskitError, ValueError, TypeError, OSError) as error:
        print(f"bayeskit {options.command}: {error}", file=sys.stderr)
        return 2


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
    fit.add_argument("--num-particles", type=int, default=10_000, metavar="N")
    fit.set_defaults(run=_fit)

    for command in (demo, fit):
        command.add_argument("--out", required=True, metavar="DIR", help="folder to write")
        command.add_argument("--seed", type=int, default=0)
    for command in (info, demo, fit):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _info(options: argparse.Namespace) -> int:
    import jax

    from bayeskit.cli.report import versions

    facts: dict[str, Any] = {
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
        "float64_by_default_in_jax": bool(jax.config.read("jax_enable_x64")),
    }
    if options.json:
        print(json.dumps(facts))
    else:
        for name, version in facts["versions"].items():
            print(f"{name:<14} {version}")
        print(f"{'devices':<14} {', '.join(facts['devices'])}")
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
        columns=options.columns.split(",") if options.columns else None,
        engine=options.engine,
        num_particles=options.num_particles,
        out=options.out,
        seed=options.seed,
        quiet=options.json,
    )
    return _finish(summary, options.json)


def _finish(summary: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps(summary))
    return 0 if summary["trusted"] else 1
