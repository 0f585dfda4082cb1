"""Posterior databases: posteriors with reference draws that others made.

A database is a folder with the layout of stan-dev/posteriordb, or of an extract of it: one
folder a posterior, with ``data.json``, ``reference_draws.npz`` and ``reference_summary.csv``.
It is read where it lies; nothing is downloaded.
"""

from __future__ import annotations

import csv
import difflib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bayeskit.errors import CorruptFileError, InvalidDataError
from bayeskit.interop.arviz import effective_sample_sizes, to_arviz

__all__ = ["ReferencePosterior", "posterior_names", "read_posterior", "scalar_draws"]

# Many times the largest file of the public database, and no bomb for a laptop.
_MAX_BYTES = 2**30
_MOMENTS = ("mean", "sd", "mcse_mean", "mean_sq", "mcse_mean_sq")


@dataclass(frozen=True)
class ReferencePosterior:
    """Data of a posterior, and draws from it that others made.

    Parameters
    ----------
    name : str
    data : dict
        As the model of the source names them; lists are arrays where they are rectangular.
    names : tuple of str
        Scalar parameters, with indices from one: ``mu``, ``theta[1]``, ``L[2,1]``. Empty
        where there are no reference draws.
    draws : (chain, draw, parameter) array
    moments : dict of (parameter) arrays
        ``mean``, ``sd``, ``mean_sq``, and standard errors ``mcse_mean`` and ``mcse_mean_sq``:
        of all draws of the source, also where only some of them are kept.
    info : dict
        What the source says about the posterior and its draws.
    """

    name: str
    data: dict[str, Any]
    names: tuple[str, ...]
    draws: np.ndarray
    moments: dict[str, np.ndarray]
    info: dict[str, Any]

    def variables(self) -> dict[str, np.ndarray]:
        """Return the reference draws (chain, draw, ...) by variable.

        Raises
        ------
        InvalidDataError
            Where there are none.
        """
        self._require_draws()
        places: dict[str, dict[tuple[int, ...], int]] = {}
        for column, name in enumerate(self.names):
            variable, _, index = name.partition("[")
            where = tuple(int(i) - 1 for i in index.rstrip("]").split(",")) if index else ()
            places.setdefault(variable, {})[where] = column
        found = {}
        for variable, columns in places.items():
            shape = tuple(np.max(list(columns), axis=0) + 1) if () not in columns else ()
            values = np.full((*self.draws.shape[:2], *map(int, shape)), np.nan)
            for where, column in columns.items():
                place: Any = (..., *where)
                values[place] = self.draws[:, :, column]
            found[variable] = values
        return found

    def to_arviz(self) -> Any:
        """Return the reference draws and the data as an object of ArviZ.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            With the groups posterior and constant_data.
        """
        arrays = {n: np.asarray(v) for n, v in self.data.items() if _is_number(v)}
        groups = {"posterior": self.variables(), "constant_data": arrays}
        return to_arviz({name: values for name, values in groups.items() if values})

    def compare(self, fit: Any) -> Any:
        r"""Compare a fit with the reference draws, each parameter by its mean and sd.

        .. math:: z = (m - M) / \sqrt{e^2 + E^2}

        with the fit's number m, its standard error e, and those of the reference in capitals.
        Errors are those of the effective sample sizes. The error of an sd s is that of the
        mean of :math:`(x - \bar x)^2`, over 2s. Where fit and reference are right, z is about
        standard normal: of 2 numbers for each of 10 parameters one is beyond 4 once in 800
        times. A z in want of draws is small: look at ``ess`` as well.

        Parameters
        ----------
        fit : estimator, Posterior or dict of (chain, draw, ...) arrays
            With the variables of the reference by their names. Others are left aside.

        Returns
        -------
        pandas.DataFrame
            One row for each parameter: mean, reference_mean, z_mean, sd, reference_sd, z_sd
            and ess, the effective sample size for the mean. Where a parameter of the fit never
            moved, z is infinite, and ess zero.

        Raises
        ------
        InvalidDataError
            If a parameter was not drawn, draws are not finite or not (chain, draw, ...), or
            there is no reference.
        """
        import pandas as pd

        self._require_draws()
        ours = scalar_draws(_draws_of(fit))
        missing = [name for name in self.names if name not in ours]
        if missing:
            raise InvalidDataError(
                f"the fit has no draws of {missing}: it has {sorted(ours)}. Name the variables "
                "of the model as the reference does"
            )
        ours = {name: np.asarray(ours[name], np.float64) for name in self.names}
        shape = next(iter(ours.values())).shape
        for name, x in ours.items():
            if x.ndim != 2 or x.shape != shape:
                raise InvalidDataError(
                    f"the fit has draws of {name} of shape {x.shape}, not {shape}: all need "
                    "the same leading axes (chain, draw)"
                )
            if not np.isfinite(x).all():
                raise InvalidDataError(f"the fit has draws of {name} that are not finite")
        moments = self.moments
        mean, mean_error, sd, sd_error, ess = _errors(ours)
        theirs = dict(zip(self.names, np.moveaxis(self.draws, 2, 0), strict=True))
        _, kept_mean_error, _, kept_sd_error, _ = _errors(theirs)
        # The error of all draws of the source is smaller than that of those which are kept.
        their_sd_error = kept_sd_error * moments["mcse_mean"] / kept_mean_error
        columns = {
            "mean": mean,
            "reference_mean": moments["mean"],
            "z_mean": _z(mean - moments["mean"], mean_error, moments["mcse_mean"]),
            "sd": sd,
            "reference_sd": moments["sd"],
            "z_sd": _z(sd - moments["sd"], sd_error, their_sd_error),
            "ess": ess,
        }
        return pd.DataFrame(columns, index=pd.Index(self.names, name="parameter"))

    def _require_draws(self) -> None:
        if not self.names:
            raise InvalidDataError(f"the database has no reference draws of {self.name!r}")


def scalar_draws(draws: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return draws (chain, draw) by scalar, with indices from one.

    Parameters
    ----------
    draws : dict of (chain, draw, ...) arrays

    Returns
    -------
    dict of (chain, draw) arrays

    Examples
    --------
    >>> import numpy as np
    >>> list(scalar_draws({"mu": np.zeros((4, 10)), "theta": np.zeros((4, 10, 2))}))
    ['mu', 'theta[1]', 'theta[2]']
    """
    scalars = {}
    for name, values in draws.items():
        values = np.asarray(values)
        for where in np.ndindex(values.shape[2:]):
            index = ",".join(str(i + 1) for i in where)
            scalars[f"{name}[{index}]" if index else name] = values[(..., *where)]
    return scalars


def _draws_of(fit: Any) -> Mapping[str, Any]:
    fit = getattr(fit, "result_", fit)
    draws = getattr(fit, "draws", fit)
    if not isinstance(draws, Mapping):
        raise TypeError(
            "fit must be a fitted estimator, a Posterior, or a dict of draws (chain, draw, "
            f"...), got {type(fit).__name__}"
        )
    return draws


def _errors(draws: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return means and sds with their standard errors, and effective sizes; inf if still."""
    means = np.array([x.mean() for x in draws.values()])
    sds = np.array([x.std() for x in draws.values()])
    squares = {name: (x - x.mean()) ** 2 for name, x in draws.items()}
    spreads = np.array([q.std() for q in squares.values()])
    moves = np.array([np.ptp(x) > 0 for x in draws.values()])
    sizes = []
    for values in (draws, squares):
        found = effective_sample_sizes(dict(values), "mean")
        sizes.append(np.where(moves, np.array([float(found[n]) for n in draws]), np.nan))
    root = np.sqrt(sizes)
    sd_errors = spreads / root[1] / (2 * np.where(moves, sds, 1.0))
    return means, sds / root[0], sds, sd_errors, np.nan_to_num(sizes[0])


def _z(difference: np.ndarray, error: np.ndarray, their_error: np.ndarray) -> np.ndarray:
    z = difference / np.hypot(error, their_error)
    return np.where(np.isnan(error), np.inf, z)


# ---------------------------------------------------------------- files


def posterior_names(path: str | Path) -> list[str]:
    """Return the names of the posteriors of a database, sorted.

    Parameters
    ----------
    path : str or Path
        Folder of the database.

    Raises
    ------
    FileNotFoundError
        If there is no posterior.
    """
    folder = _database(path)
    if (folder / "posteriors").is_dir():
        names = [file.stem for file in (folder / "posteriors").glob("*.json")]
    else:
        names = [file.parent.name for file in folder.glob("*/data.json")]
    if not names:
        raise FileNotFoundError(
            f"no posterior in {folder}: give the folder of a posterior database, which holds "
            "posterior_database/posteriors/*.json, or */data.json"
        )
    return sorted(names)


def read_posterior(path: str | Path, name: str) -> ReferencePosterior:
    """Read one posterior of a database: data, parameter names and reference draws.

    Parameters
    ----------
    path : str or Path
        Folder of the database: a copy of the repository stan-dev/posteriordb, its folder
        ``posterior_database``, or an extract with one folder a posterior.
    name : str
        Such as ``"eight_schools-eight_schools_noncentered"``.

    Returns
    -------
    ReferencePosterior

    Raises
    ------
    FileNotFoundError
        If there is no such posterior; names those that are alike.
    CorruptFileError
        For a file that is broken, or not of this layout.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> import numpy as np
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "coin-coin").mkdir()
    >>> _ = (folder / "coin-coin" / "data.json").write_text(json.dumps({"y": [0, 1, 1]}))
    >>> read_posterior(folder, "coin-coin").data["y"]
    array([0, 1, 1])
    """
    folder = _database(path)
    known = posterior_names(folder)
    if name not in known:
        alike = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5) or known[:3]
        raise FileNotFoundError(
            f"no posterior {name!r} among the {len(known)} in {folder}: there are "
            f"{', '.join(alike)}"
        )
    if not (folder / "posteriors").is_dir():
        return _read_extract(folder / name, name)
    info = _table(_json(folder / "posteriors" / f"{name}.json"), name)
    source = _plain_name(info.get("data_name"), "data_name")
    data = _table(_json(folder / "data" / "data" / f"{source}.json"), source)
    reference = info.get("reference_posterior_name")
    if not reference:
        return _posterior(name, data, (), np.zeros((0, 0, 0)), None, info)
    reference = _plain_name(reference, "reference_posterior_name")
    draws_folder = folder / "reference_posteriors" / "draws"
    chains = _json(draws_folder / "draws" / f"{reference}.json")
    about = draws_folder / "info" / f"{reference}.info.json"
    if about.exists():
        info = {**info, "reference": _json(about)}
    try:
        names = tuple(chains[0])
        tables = [[np.asarray(chain[n], np.float64) for n in names] for chain in chains]
        draws = np.moveaxis(np.array(tables, np.float64), 1, 2)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptFileError(
            f"the draws of {reference!r} are not a list of chains of equal length, each a dict "
            f"of parameters: {error}"
        ) from error
    return _posterior(name, data, names, draws, None, info)


def _read_extract(folder: Path, name: str) -> ReferencePosterior:
    data = _table(_json(folder / "data.json"), name)
    info = _json(folder / "info.json") if (folder / "info.json").exists() else {}
    stored = folder / "reference_draws.npz"
    if not stored.exists():
        return _posterior(name, data, (), np.zeros((0, 0, 0)), None, info)
    moments = None
    try:
        with np.load(stored, allow_pickle=False) as arrays:
            names, draws = tuple(map(str, arrays["names"])), np.array(arrays["draws"], float)
        summary = folder / "reference_summary.csv"
        if summary.exists():
            with open(summary, newline="") as file:
                rows = {row["parameter"]: row for row in csv.DictReader(file)}
            names, order = tuple(rows), [names.index(n) for n in rows]
            draws = draws[:, order]
            moments = {m: np.array([float(rows[n][m]) for n in names]) for m in _MOMENTS}
        # Chain after chain in one column of draws.
        draws = draws.reshape(info.get("n_chains", 1), -1, len(names))
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"the reference draws of {name!r}: {error}") from error
    return _posterior(name, data, names, draws, moments, info)


def _posterior(
    name: str,
    data: dict[str, Any],
    names: tuple[str, ...],
    draws: np.ndarray,
    moments: dict[str, np.ndarray] | None,
    info: dict[str, Any],
) -> ReferencePosterior:
    data = {key: _as_array(value) for key, value in data.items()}
    if names and (draws.ndim != 3 or not draws.size or not np.isfinite(draws).all()):
        raise CorruptFileError(f"the reference draws of {name!r} are empty or not finite")
    if moments is None:
        columns = dict(zip(names, np.moveaxis(draws, 2, 0), strict=True)) if names else {}
        moments = {m: np.zeros(0) for m in _MOMENTS} if not names else _moments(columns)
    return ReferencePosterior(name, data, names, draws, moments, info)


def _moments(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    means, errors, sds, *_ = _errors(columns)
    squares, square_errors, *_ = _errors({name: x**2 for name, x in columns.items()})
    return dict(zip(_MOMENTS, (means, sds, errors, squares, square_errors), strict=True))


def _database(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give that of a posterior database")
    inner = folder / "posterior_database"
    return inner if inner.is_dir() else folder


def _plain_name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value or Path(value).name != value or "\\" in value:
        raise CorruptFileError(f"{what} must be the name of a file, got {value!r}")
    return value


def _json(path: Path) -> Any:
    """Return what a file of JSON holds, also packed with ``.zip`` behind its name."""
    packed = path.with_name(f"{path.name}.zip")
    try:
        if not path.exists() and packed.exists():
            with zipfile.ZipFile(packed) as archive:
                inside = archive.getinfo(path.name)
                if inside.file_size > _MAX_BYTES:
                    raise CorruptFileError(f"{packed} unpacks to {inside.file_size} bytes")
                return json.loads(archive.read(inside))
        return json.loads(path.read_text())
    except CorruptFileError:
        raise
    except FileNotFoundError as error:
        raise CorruptFileError(f"the database lacks {path}, or {packed.name}") from error
    except (KeyError, ValueError, OSError, RecursionError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"{path} cannot be read: {error}") from error


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorruptFileError(f"{name}: expected a dict in JSON, got {type(value).__name__}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, np.ndarray | int | float)


def _as_array(value: Any) -> Any:
    """Return a list of numbers as an array, and anything else as it is."""
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        return value
    return array if array.dtype.kind in "iufb" else value
