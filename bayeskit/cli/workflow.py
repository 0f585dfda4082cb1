"""What ``bayeskit fit`` and ``bayeskit demo`` do, from the table to the folder of results."""

from __future__ import annotations

import math
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayeskit import NUTS, SMC
from bayeskit.cli.report import Page, versions
from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.inference import HMC
from bayeskit.interop.arviz import write_netcdf
from bayeskit.models.regression import design_matrix, regression_model, response
from bayeskit.validation import validate

__all__ = ["demo", "fit"]

# Largest difference of posterior means over its Monte-Carlo standard error that counts as
# agreement: 31 such numbers exceed 4.5 by chance with probability 2e-4.
_AGREEMENT = 4.5
_DEMO_EVIDENCE = -58.68
_DEMO_SOURCE = (
    "importance sampling with 100 000 draws (-58.679, standard error 0.007) and two runs of "
    "bridge sampling (-58.682 and -58.684)"
)
# Standard errors that the evidence may be off: by chance with probability 6e-7.
_EVIDENCE_TOLERANCE = 5.0
# What a fit writes; a file that this fit does not write, an earlier one may have left.
_FILES = (
    "posterior.bkit",
    "posterior.nc",
    "summary.csv",
    "forest.png",
    "smc_history.png",
    "report.html",
)


def fit(
    table: str,
    *,
    target: str,
    family: str,
    out: str,
    columns: Sequence[str] | None = None,
    engine: str = "smc",
    num_particles: int = 10_000,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit a regression to a CSV file and write the results to a folder.

    Returns
    -------
    dict
        What ``--json`` prints.
    """
    folder = _checked_folder(out)
    frame = _read(table)
    names, notes = _predictors(frame, target, columns)
    for name in [*names, target]:
        _refuse_text(frame[name])
    for note in notes:
        print(f"bayeskit fit: {note}", file=sys.stderr)
    design = design_matrix(frame[names], names)
    y = response(frame[target], family, target)
    chosen = SMC(num_particles=num_particles) if engine == "smc" else NUTS()
    clock = time.process_time()
    estimator = _fitted(
        regression_model(family, names, inference=chosen, random_state=seed), design, y
    )
    return _write(
        folder,
        title=f"{family.capitalize()} regression of {target}",
        subtitle="; ".join(
            [f"{Path(table).name}: {len(y)} rows, {len(names)} predictors, seed {seed}", *notes]
        ),
        estimators={engine.upper(): estimator},
        cpu_seconds=lambda: time.process_time() - clock,
        quiet=quiet,
    )


def demo(out: str, *, seed: int = 0, quiet: bool = False) -> dict[str, Any]:
    """Fit the breast-cancer data by SMC and by NUTS, compare, check the kernel, report."""
    from sklearn.datasets import load_breast_cancer

    folder = _checked_folder(out)
    clock = time.process_time()
    data = load_breast_cancer()
    design = design_matrix(data.data, [str(name) for name in data.feature_names])
    estimators = {}
    for name, engine in (("SMC", SMC(num_particles=20_000)), ("NUTS", NUTS())):
        estimator = regression_model(
            "logistic", design.names, inference=engine, random_state=seed
        )
        estimators[name] = _fitted(estimator, design, data.target)
    report = validate(HMC(), models=["skewed", "correlated_normal", "banana"], key=seed)
    return _write(
        folder,
        title="Breast cancer: Bayesian logistic regression",
        subtitle=(
            f"scikit-learn's breast-cancer data: {len(data.target)} rows, "
            f"{len(design.names)} predictors scaled to sd 0.5, prior sd 20 for the intercept "
            f"and 5 for the coefficients, seed {seed}"
        ),
        estimators=estimators,
        cpu_seconds=lambda: time.process_time() - clock,
        validation=report,
        reference=_DEMO_EVIDENCE,
        quiet=quiet,
    )


def _checked_folder(out: str) -> Path:
    folder = Path(out)
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(f"--out {out}: {place} is a file, name a folder")
    return folder


def _read(table: str) -> Any:
    """Return the table of a CSV file; what is wrong with the file names the file."""
    import pandas as pd

    try:
        # In one piece: pandas would otherwise guess the type of a column piece by piece.
        frame = pd.read_csv(table, low_memory=False)
    except UnicodeDecodeError as error:
        raise InvalidDataError(
            f"{table} is not UTF-8 text ({error.reason} at byte {error.start}): save it as CSV "
            "in UTF-8"
        ) from None
    except pd.errors.EmptyDataError:
        raise InvalidDataError(
            f"{table} is empty: expected a line of column names, then one line a row"
        ) from None
    except pd.errors.ParserError as error:
        raise InvalidDataError(f"{table} is no CSV table: {str(error).strip()}") from None
    frame.columns = frame.columns.map(str)
    return frame


def _refuse_text(column: Any) -> None:
    """Refuse a column that holds text, with the first cell that is no number."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column.dtype):
        return
    bad = pd.to_numeric(column, errors="coerce").isna() & column.notna()
    if bad.any():
        row = int(np.argmax(bad.to_numpy()))
        raise InvalidDataError(
            f"column {column.name!r} holds text at row {row}, {str(column.iloc[row])[:40]!r} "
            f"({int(bad.sum())} of {len(column)} cells; the first row is 0): encode text, "
            "dates and categories as numbers first"
        )


def _predictors(
    frame: Any, target: str, columns: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return the predictors, and what is to be said about their choice."""
    known = list(frame.columns)
    for name in [target, *(columns or [])]:
        if name not in known:
            raise InvalidDataError(f"there is no column {name!r}: the table has {known}")
    if target in (columns or []):
        raise InvalidDataError(f"{target!r} cannot explain itself: leave it out of --columns")
    if columns:
        return list(columns), []
    others = [name for name in known if name != target]
    # A column without a name is most often the row number that another program wrote.
    unnamed = [name for name in others if re.fullmatch(r"Unnamed: \d+", name)]
    names = [name for name in others if name not in unnamed]
    if not names:
        raise InvalidDataError(
            f"the table has no column but {target!r} that has a name: nothing to explain with"
        )
    notes = [
        f"column {known.index(name)} has no name and is left out (use it: --columns {name!r})"
        for name in unnamed
    ]
    return names, notes


def _fitted(estimator: Any, design: Any, y: np.ndarray) -> Any:
    with warnings.catch_warnings():
        # The report says it in full.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(design.values, y)


def _agreement(estimators: dict[str, Any]) -> Any:
    """Return posterior means of two engines side by side, and z of their difference."""
    (first, one), (second, two) = ((n, e.summary()) for n, e in estimators.items())
    table = one[["mean"]].rename(columns={"mean": f"mean {first}"})
    table[f"mean {second}"] = two["mean"]
    error = np.sqrt(one["mcse_mean"] ** 2 + two["mcse_mean"] ** 2)
    table["difference / its error"] = (one["mean"] - two["mean"]) / error
    return table


def _write(
    folder: Path,
    *,
    title: str,
    subtitle: str,
    estimators: dict[str, Any],
    cpu_seconds: Callable[[], float],
    validation: Any = None,
    reference: float | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write all results into a folder beside the wanted one, then move them there at once."""
    name, estimator = next(iter(estimators.items()))
    result = estimator.result_
    summary: dict[str, Any] = {
        "title": title,
        "engine": estimator.engine_,
        "log_evidence": result.log_evidence,
        "log_evidence_se": result.log_evidence_se,
        "converged": {n: e.diagnostics_.converged for n, e in estimators.items()},
        "trusted": all(e.diagnostics_.converged for e in estimators.values()),
        "timing": {n: e.timing_ for n, e in estimators.items()},
        "versions": versions(),
    }
    page = Page(title, subtitle)
    page.headline(_headlines(summary, estimators, reference))
    for engine, fitted in estimators.items():
        for reason in fitted.diagnostics_.reasons:
            page.warning(f"{engine}: {reason}")
    if len(estimators) == 2:
        agreement = _agreement(estimators)
        largest = _largest(agreement)
        summary["largest_difference_in_standard_errors"] = largest
        summary["engines_agree"] = largest < _AGREEMENT
        summary["trusted"] &= summary["engines_agree"]
        page.section(
            "Do the engines agree?",
            f"The largest difference of two posterior means is {largest:.2f} of its "
            f"Monte-Carlo standard errors; below {_AGREEMENT} counts as agreement, which two "
            f"right engines miss with probability {_false_alarms(len(agreement)):.0e}.",
        )
        page.table(agreement)
    if reference is not None and result.log_evidence is not None:
        off = abs(result.log_evidence - reference) / result.log_evidence_se
        summary["evidence_reference"] = reference
        summary["trusted"] &= bool(off < _EVIDENCE_TOLERANCE)
        page.section(
            "Is the evidence right?",
            f"The log evidence is {off:.1f} standard errors from the reference "
            f"{reference:.2f}, on which {_DEMO_SOURCE} agree; below {_EVIDENCE_TOLERANCE:g} "
            "counts as right.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bayeskit-") as staging:
        place = Path(staging)
        estimator.save(place / "posterior.bkit")
        write_netcdf(estimator.posterior_, place / "posterior.nc")
        table = estimator.summary()
        table.to_csv(place / "summary.csv", index_label="parameter")
        _plots(place, estimators)
        page.section("Posterior", f"One row a parameter, from {name}.")
        page.picture(place / "forest.png", "Medians with 50 % and 90 % intervals")
        page.table(table)
        if (place / "smc_history.png").exists():
            page.section(
                "The run", "From the prior, inverse temperature 0, to the posterior, 1."
            )
            page.picture(place / "smc_history.png", "Temperature, effective sample size, moves")
        page.section("What the numbers stand for", "The law, derived from the blocks that ran.")
        page.text(result.law)
        if validation is not None:
            summary["validation"] = validation.verdict
            summary["trusted"] &= validation.verdict == "pass"
            page.section("The kernel, checked", "Exact draws, moved, must stay exact draws.")
            page.text(str(validation))
        summary["cpu_seconds"] = round(cpu_seconds(), 1)
        summary["compile_seconds"] = round(
            sum(e.timing_["compile_s"] for e in estimators.values()), 1
        )
        page.section("To repeat this", "Same versions, same seed: same numbers.")
        page.text("\n".join(f"{n}: {e.engine_}" for n, e in estimators.items()))
        page.text("\n".join(f"{n} {v}" for n, v in summary["versions"].items()))
        page.write(place / "report.html")
        folder.mkdir(exist_ok=True)
        for old in _FILES:
            (folder / old).unlink(missing_ok=True)
        for file in place.iterdir():
            shutil.move(file, folder / file.name)
    if not quiet:
        _print(summary, table, validation, folder)
    return summary


def _largest(agreement: Any) -> float:
    """Return the largest difference; NaN, which pandas would skip, stays NaN."""
    return float(np.max(np.abs(agreement["difference / its error"].to_numpy())))


def _false_alarms(num: int) -> float:
    """Return the probability that one of some standard normal numbers exceeds the bound."""
    return num * math.erfc(_AGREEMENT / math.sqrt(2.0))


def _headlines(
    summary: dict[str, Any], estimators: dict[str, Any], reference: float | None
) -> dict[str, str]:
    lines = {}
    if summary["log_evidence"] is not None:
        lines["log evidence"] = (
            f"{summary['log_evidence']:.2f} ± {summary['log_evidence_se']:.2f}"
        )
        if reference is not None:
            lines["reference"] = f"{reference:.2f}"
    for name, estimator in estimators.items():
        found = estimator.diagnostics_
        lines[f"{name} draws"] = f"{estimator.result_.num_draws:,}"
        lines[f"{name} least ESS"] = f"{min(found.ess_bulk_min, found.ess_tail_min):,.0f}"
        lines[f"{name} R-hat"] = f"{found.r_hat_max:.3f}"
        timing = estimator.timing_
        lines[f"{name} seconds"] = (
            f"{timing['run_s']:.1f} + {timing['compile_s']:.1f} to compile"
        )
    return lines


def _plots(place: Path, estimators: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from bayeskit import plots

    axes = {"forest": plots.forest(estimators)}
    first = next(iter(estimators.values())).result_
    if "inverse_temperature" in first.history:
        axes["smc_history"] = plots.smc_history(first)
    for name, axis in axes.items():
        axis.figure.savefig(place / f"{name}.png", dpi=150, bbox_inches="tight")
        plt.close(axis.figure)


def _print(summary: dict[str, Any], table: Any, validation: Any, folder: Path) -> None:
    print(summary["title"])
    print(table.to_string(float_format=lambda value: f"{value:.3f}"))
    if summary["log_evidence"] is not None:
        line = f"log evidence {summary['log_evidence']:.2f} ± {summary['log_evidence_se']:.2f}"
        if "evidence_reference" in summary:
            line += f" (reference {summary['evidence_reference']:.2f})"
        print(line)
    if "engines_agree" in summary:
        verdict = "agree" if summary["engines_agree"] else "DISAGREE"
        largest = summary["largest_difference_in_standard_errors"]
        print(f"SMC and NUTS {verdict}: largest difference {largest:.2f} standard errors")
    if validation is not None:
        print(f"kernel check: {validation.verdict} in {validation.seconds:.1f} s")
    print(
        f"{summary['cpu_seconds']} CPU seconds in all, {summary['compile_seconds']} s of them "
        "compiling the engines"
    )
    print(f"results in {folder}: open report.html")
