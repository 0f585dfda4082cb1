"""What ``bayeskit validate`` does: find the object, validate it, tell errors apart."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import bayeskit
from bayeskit.errors import InvalidDataError, KeyReuseError, LawMismatch
from bayeskit.validation import Report, validate

__all__ = ["check", "check_plot_file", "save_plot"]


def check(what: str, given: dict[str, Any]) -> Report | None:
    """Return the report on what ``MODULE:NAME`` names.

    Parameters
    ----------
    what : str
        Names a Report, a function without parameters, or what is to be validated. A function
        without parameters is called; it returns a Report, so that anything can be given to
        :func:`bayeskit.validate` in Python, or what is to be validated.
    given : dict
        Keyword arguments of :func:`bayeskit.validate`; ``target`` as ``MODULE:NAME``.

    Returns
    -------
    Report or None
        None if the validation could not be done; the reason is on stderr.

    Raises
    ------
    InvalidDataError
        If there is no such module or name, or options are given beside a finished report.
    LawMismatch, KeyReuseError
        For a block that breaks its law before anything is compared.
    """
    try:
        block = _called(_find(what))
        if isinstance(block, Report):
            if given:
                raise InvalidDataError(
                    f"{what} is a finished report: give "
                    f"{', '.join(given)} to validate where it is made"
                )
            return block
        if "target" in given:
            given = {**given, "target": _called(_find(given["target"]))}
        return validate(block, **given)
    except (InvalidDataError, LawMismatch, KeyReuseError):
        raise
    except Exception as error:
        place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if place.is_relative_to(Path(bayeskit.__file__).parent):
            # Refused by this package: the message says what to do.
            print(f"bayeskit validate: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return None


def check_plot_file(file: str) -> None:
    """Refuse a file that no picture can be written to.

    Raises
    ------
    InvalidDataError
        If its folder is missing or its format unknown.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(file).suffix.lstrip(".").lower() not in known:
        raise InvalidDataError(f"--plot {file}: the name must end in one of {', '.join(known)}")
    if not Path(file).resolve().parent.is_dir():
        raise InvalidDataError(f"--plot {file}: there is no folder {Path(file).parent}")


def save_plot(report: Report, file: str) -> None:
    """Save a picture of the most suspicious tests of a report."""
    import matplotlib as mpl

    mpl.use("Agg")
    report.plot().figure.savefig(file, dpi=150, bbox_inches="tight")


def _find(what: str) -> Any:
    """Import what ``MODULE:NAME`` names, from the current folder too."""
    module_name, _, name = what.partition(":")
    if not module_name or not name:
        raise InvalidDataError(f"expected MODULE:NAME, such as kernels:my_kernel, got {what!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InvalidDataError(
            f"there is no module {module_name!r} in {os.getcwd()} or among the installed ones"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if not n.startswith("_")]
            raise InvalidDataError(f"{module_name} has no {name!r}, only {known[:20]}")
        found = getattr(found, part)
    return found


def _called(found: Any) -> Any:
    """Call a function or class that needs nothing, and return anything else as it is."""
    if not (inspect.isfunction(found) or inspect.isclass(found)):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError:
        return found
    return found()
