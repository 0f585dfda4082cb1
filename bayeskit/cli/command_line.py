"""Commands, their options and their exit codes."""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bayeskit import __version__
from bayeskit.cli.usage import UsageError
from bayeskit.errors import BayeskitError, ConvergenceWarning, InvalidDataError

__all__ = ["main"]

RIGHT, WRONG, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
exit codes: 0 the result can be trusted as far as the checks tell; 1 a check failed, and what
was written says which; 2 wrong usage or data that cannot be used, and nothing was written
"""
# As the keys of JAX, less what is added for the checks.
_LARGEST_SEED = 2**62


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        0 right, 1 wrong result, 2 bad input. Wrong usage exits with 2 by itself.
    """
    options = _parser().parse_args(arguments)
    say = _quiet if options.json else _say
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        try:
            result, code = _commands()[options.command](options, say)
        except (UsageError, InvalidDataError, OSError) as error:
            return _fail(options.command, error, BAD_INPUT)
        except BayeskitError as error:
            return _fail(options.command, error, WRONG)
        except KeyboardInterrupt:
            return _fail(options.command, "interrupted; nothing was written", INTERRUPTED)
        finally:
            _show(caught)
    if options.json:
        print(json.dumps(_plain(result), indent=2, ensure_ascii=False, allow_nan=False))
    return code


def _commands() -> dict[str, Callable]:
    # Each command imports what it needs itself: help and wrong usage are answered at once.
    def info(options, say):
        from bayeskit.cli.info import run_info

        return run_info(say)

    def fit(options, say):
        from bayeskit.cli.fit import run_fit

        return run_fit(options, say)

    def demo(options, say):
        from bayeskit.cli.demo import run_demo

        return run_demo(options, say)

    return {"info": info, "fit": fit, "demo": demo}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bayeskit",
        description="Bayesian inference from blocks that compose.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"bayeskit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    info = commands.add_parser("info", help="versions, devices and precision")
    fit = commands.add_parser("fit", help="fit a regression to a CSV file", epilog=_EPILOG)
    demo = commands.add_parser(
        "demo", help="fit, check and report an example on real data", epilog=_EPILOG
    )
    fit.add_argument("data", metavar="DATA.csv", help="table with a header line")
    fit.add_argument("--target", required=True, metavar="COLUMN", help="what is explained")
    fit.add_argument("--family", required=True, choices=("logistic", "linear", "poisson"))
    fit.add_argument(
        "--columns", type=_names, metavar="A,B,C", help="predictors (default: all others)"
    )
    fit.add_argument("--engine", default="smc", choices=("smc", "nuts"))
    fit.add_argument(
        "--num-particles", type=_count, metavar="N", help="for --engine smc (default: 10000)"
    )
    fit.add_argument(
        "--validate", action="store_true", help="also check the kernel that moved the draws"
    )
    for command in (fit, demo):
        command.add_argument(
            "--out",
            required=True,
            metavar="DIR",
            help="folder for the results; other files in it are left alone",
        )
        command.add_argument("--seed", type=_seed, default=0, help="default: 0")
    for command in (info, fit, demo):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return number


def _seed(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number <= _LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to {_LARGEST_SEED}, got {text!r}"
        )
    return number


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between, got {text!r}")
    return names


def _say(text: str = "") -> None:
    print(text, flush=True)


def _quiet(text: str = "") -> None:
    pass


def _fail(command: str, error: Any, code: int) -> int:
    text = str(error) or type(error).__name__
    print(f"bayeskit {command}: {text}", file=sys.stderr)
    return code


def _show(caught: list[warnings.WarningMessage]) -> None:
    for warning in caught:
        # What has not converged is told by the command itself.
        if not issubclass(warning.category, ConvergenceWarning):
            print(f"bayeskit: warning: {warning.message}", file=sys.stderr)


def _plain(value: Any) -> Any:
    """Return a value for JSON, which knows neither NaN nor the numbers of NumPy."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
