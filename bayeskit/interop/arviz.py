"""ArviZ: the one file that knows that its versions 0.x and 1.x differ."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

__all__ = ["effective_sample_sizes", "rank_normalized_rhat", "to_arviz", "write_netcdf"]

# Quantiles whose effective sizes are those of the tails (Vehtari et al. 2021).
_TAILS = (0.05, 0.95)


def _arviz() -> Any:
    """Return the package, without its announcement of 1.x: users take it for one of the fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        import arviz
    return arviz


def to_arviz(
    groups: dict[str, dict[str, np.ndarray]],
    coords: dict[str, Any] | None = None,
    dims: dict[str, list[str]] | None = None,
) -> Any:
    """Return an ``InferenceData`` (ArviZ 0.x) or a ``DataTree`` (ArviZ 1.x).

    Parameters
    ----------
    groups : dict
        Variables by group and name. Sampled groups have leading axes (chain, draw).
    coords, dims : dict, optional
        Labels of the axes behind those, as in ``arviz.from_dict``.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit.interop.arviz import to_arviz
    >>> heights = np.arange(12.0).reshape(2, 3, 2)  # chain, draw, city
    >>> labels = {"coords": {"city": ["Bonn", "Kiel"]}, "dims": {"height": ["city"]}}
    >>> result = to_arviz({"posterior": {"height": heights}}, **labels)
    >>> result["posterior"]["height"].sel(city="Kiel").values.tolist()
    [[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]
    """
    az = _arviz()

    if az.__version__.startswith("0."):  # to ask 1.x for its old names makes it warn
        return az.from_dict(**groups, coords=coords, dims=dims)
    return az.from_dict(groups, coords=coords, dims=dims)


def _dataset(draws: dict[str, np.ndarray]) -> Any:
    import xarray as xr

    variables = {}
    for name, values in draws.items():
        extra = [f"{name}_dim_{i}" for i in range(values.ndim - 2)]
        variables[name] = (("chain", "draw", *extra), values)
    return xr.Dataset(variables)


def effective_sample_sizes(draws: dict[str, np.ndarray], method: str) -> dict[str, np.ndarray]:
    """Return effective sample sizes ("bulk" or "tail") of draws (chain, draw, ...) by name.

    Parameters
    ----------
    draws : dict of (chain, draw, ...) arrays
    method : {"bulk", "tail"}

    Returns
    -------
    dict of (...) arrays

    Examples
    --------
    Chains that stay ten times at each draw are worth a tenth:

    >>> import numpy as np
    >>> from bayeskit.interop.arviz import effective_sample_sizes
    >>> draws = np.random.default_rng(0).normal(size=(4, 1000))
    >>> slow = draws[:, :100].repeat(10, axis=1)
    >>> sizes = effective_sample_sizes({"free": draws, "slow": slow}, "bulk")
    >>> round(float(sizes["slow"] / sizes["free"]), 1)
    0.1
    """
    az = _arviz()

    # Said, since versions differ in what they take for tails.
    tails = {"prob": _TAILS} if method == "tail" else {}
    sizes = az.ess(_dataset(draws), method=method, **tails)
    return {name: np.asarray(sizes[name].values) for name in draws}


def rank_normalized_rhat(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the rank-normalised split R-hat of draws (chain, draw, ...) by name.

    Parameters
    ----------
    draws : dict of (chain, draw, ...) arrays

    Returns
    -------
    dict of (...) arrays

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit.interop.arviz import rank_normalized_rhat
    >>> draws = np.random.default_rng(0).normal(size=(4, 1000))
    >>> apart = draws + np.array([[0.0], [0.0], [0.0], [10.0]])
    >>> found = rank_normalized_rhat({"alike": draws, "apart": apart})
    >>> {name: round(float(value), 1) for name, value in found.items()}
    {'alike': 1.0, 'apart': 1.5}
    """
    az = _arviz()

    # That of draws which never move is 0/0: NaN, and no news.
    with np.errstate(invalid="ignore"):
        values = az.rhat(_dataset(draws), method="rank")
    return {name: np.asarray(values[name].values) for name in draws}


def write_netcdf(results: Any, path: Any) -> None:
    """Write what :func:`to_arviz` returned to a netCDF file, on both versions of ArviZ.

    Parameters
    ----------
    results : arviz.InferenceData or xarray.DataTree
    path : str or path

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np, xarray as xr
    >>> from bayeskit.interop.arviz import to_arviz, write_netcdf
    >>> path = pathlib.Path(tempfile.mkdtemp(), "results.nc")
    >>> write_netcdf(to_arviz({"posterior": {"theta": np.array([[0.5, 1.5]])}}), path)
    >>> with xr.open_dataset(path, group="posterior", engine="h5netcdf") as group:
    ...     group["theta"].dims, group["theta"].values.tolist()
    (('chain', 'draw'), [[0.5, 1.5]])
    """
    if hasattr(results, "children"):
        results.to_netcdf(path, engine="h5netcdf")
    else:
        results.to_netcdf(str(path), engine="h5netcdf")
