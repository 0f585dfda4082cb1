"""Input of the estimator, checked once and brought to arrays with a batch axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.base import real_numbers
from bayeskit.models.distribution_transformer.simulators import BaseSimulator
from bayeskit.models.distribution_transformer.task import Problems

__all__ = [
    "checked_parameters",
    "checked_rows",
    "checked_series",
    "joined",
    "padded",
    "refuse_more_rows",
]

_MISSING = ("raise", "mask")


def _numbers(value: Any, name: str, missing: str) -> np.ndarray:
    # A copy, which is in native byte order as well.
    array = np.array(real_numbers(value, name), dtype=np.float64)
    if missing not in _MISSING:
        raise ValueError(f"missing must be one of {_MISSING}, got {missing!r}")
    bad = np.isinf(array) if missing == "mask" else ~np.isfinite(array)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InvalidDataError(
            f"{name} contains {array[place]} at index {place} ({int(bad.sum())} of "
            f"{array.size} values are not finite): remove those rows, or "
            'pass missing="mask" for NaN, which leaves the rows out'
        )
    return array


def _by_source(z: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    if not isinstance(z, Mapping):
        if len(sizes) > 1:
            raise InvalidDataError(f"z must be a dict with an array for each of {list(sizes)}")
        return {next(iter(sizes)): z}
    unknown = set(z) - set(sizes)
    if unknown:
        raise InvalidDataError(
            f"z has the unknown sources {sorted(unknown)}: known are {list(sizes)}"
        )
    return dict(z)


def checked_rows(
    z: Any, sizes: Mapping[str, int], missing: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], bool]:
    """Return rows (batch, n, m) and masks (batch, n) by source, and whether it was a batch.

    Parameters
    ----------
    z : array, or dict of arrays by source
        (batch, n, m), (n, m), or (n,) for m = 1; None, or a source that is absent: no rows.
    sizes : dict of str to int
        m of each source.
    missing : {"raise", "mask"}
        What to do with NaN.
    """
    given = _by_source({} if z is None else z, sizes)
    rows, is_batch = {}, False
    for name, size in sizes.items():
        array = _numbers(given.get(name, np.zeros((0, size))), f"z[{name!r}]", missing)
        if array.ndim == 1 and (size == 1 or array.size in (0, size)):
            # Several numbers, or one observation of several.
            array = array[:, None] if size == 1 else array.reshape(-1, size)
        if array.ndim not in (2, 3) or array.shape[-1] != size:
            raise InvalidDataError(
                f"z[{name!r}] must have shape (n, {size}) for one data set or "
                f"(batch, n, {size}) for several, got {array.shape}"
            )
        is_batch = is_batch or array.ndim == 3
        rows[name] = array if array.ndim == 3 else array[None]
    masks = {name: ~np.isnan(array).any(axis=-1) for name, array in rows.items()}
    return rows, masks, is_batch


def checked_series(
    zs: Any, sizes: Mapping[str, int], missing: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], bool]:
    """Return rows (time, batch, 1, m) and masks (time, batch, 1), and whether it was a batch.

    Parameters
    ----------
    zs : array, or dict of arrays by source
        (time, m), (time,) for m = 1, or (batch, time, m).
    """
    rows, masks, is_batch = checked_rows(zs, sizes, missing)
    lengths = {array.shape[1] for array in rows.values() if array.shape[1]}
    if len(lengths) != 1:
        if not lengths:
            raise InvalidDataError("zs must have at least one time, got none")
        raise InvalidDataError(
            f"zs must have the same times in each source, got lengths {sorted(lengths)}"
        )
    (length,) = lengths
    batch = max(len(array) for array in rows.values())
    for name, size in sizes.items():
        if not rows[name].shape[1]:
            rows[name] = np.full((batch, length, size), np.nan)
            masks[name] = np.zeros((batch, length), bool)
        rows[name] = np.moveaxis(rows[name], 1, 0)[:, :, None, :]
        masks[name] = np.moveaxis(masks[name], 1, 0)[:, :, None]
    return rows, masks, is_batch


def checked_parameters(values: Any, simulator: BaseSimulator) -> tuple[np.ndarray, bool]:
    """Return scaled numbers of the likelihood (batch, p), and whether it was a batch."""
    ranges = simulator.parameters.ranges
    given = dict(values or {})
    if given and not ranges:
        raise InvalidDataError(
            f"parameters must be None, since the simulator has none; got {sorted(given)}"
        )
    if set(given) != set(ranges):
        raise InvalidDataError(
            f"parameters must be a dict of {sorted(ranges)}, got {sorted(given)}"
        )
    arrays = {
        name: _numbers(value, f"parameters[{name!r}]", "raise") for name, value in given.items()
    }
    for name, array in arrays.items():
        if array.ndim > 1:
            raise InvalidDataError(
                f"parameters[{name!r}] must be a number or one for each problem, got shape "
                f"{array.shape}"
            )
        if ranges[name][0] > 0 and (array <= 0).any():
            raise InvalidDataError(
                f"parameters[{name!r}] must be positive, got {array.min():g}"
            )
    lengths = {len(array) for array in arrays.values() if array.ndim}
    if len(lengths) > 1:
        raise InvalidDataError(f"parameters have different lengths: {sorted(lengths)}")
    batch = lengths.pop() if lengths else 1
    columns = [np.asarray(c) for c in simulator.parameters.scaled(arrays)]
    filled = [np.broadcast_to(c, (batch,)) for c in columns]
    vector = np.stack(filled, axis=-1) if filled else np.zeros((batch, 0))
    return vector, any(array.ndim for array in arrays.values())


def joined(
    prior: Any, rows: dict[str, Any], masks: dict[str, Any], vector: Any
) -> tuple[Problems, int]:
    """Return one batch of problems; what was given once holds for all.

    Raises
    ------
    InvalidDataError
        For batches of different lengths.
    """
    problems = Problems(prior, rows, masks, vector)
    found = {
        "prior": len(jax.tree.leaves(prior)[0]),
        "parameters": len(vector),
        **{f"z[{name!r}]": len(array) for name, array in rows.items()},
    }
    lengths = {length for length in found.values() if length != 1}
    if len(lengths) > 1:
        raise InvalidDataError(f"batches have different lengths: {found}")
    batch = lengths.pop() if lengths else 1
    full = jax.tree.map(lambda a: np.broadcast_to(a, (batch, *a.shape[1:])), problems)
    return full, batch


def refuse_more_rows(rows: Mapping[str, Any], trained: Mapping[str, tuple[int, int]]) -> None:
    """Refuse more rows than the simulator can evaluate.

    Raises
    ------
    InvalidDataError
        With both numbers.
    """
    for name, values in rows.items():
        if values.shape[1] > trained[name][1]:
            raise InvalidDataError(
                f"z[{name!r}] has {values.shape[1]} observations, but this simulator draws "
                f"data sets of at most {trained[name][1]}"
            )


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def padded(problems: Problems, trained_rows: Mapping[str, int], example: Mapping) -> Problems:
    """Return problems of rounded sizes, so that few programs are compiled.

    Rows that are not there are filled with an ordinary one, at which densities are finite.
    """
    batch = len(problems.vector)
    extra = _power_of_two(batch) - batch
    rows: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    for name, values in problems.rows.items():
        n = values.shape[1]
        wanted = trained_rows[name] if n <= trained_rows[name] else _power_of_two(n)
        mask = np.pad(problems.masks[name], ((0, 0), (0, wanted - n)))
        full = np.pad(values, ((0, 0), (0, wanted - n), (0, 0)))
        rows[name] = np.where(mask[..., None], full, example[name])
        masks[name] = mask

    def more(leaf: np.ndarray) -> np.ndarray:
        return np.concatenate([leaf, np.broadcast_to(leaf[:1], (extra, *leaf.shape[1:]))])

    return jax.tree.map(more, Problems(problems.prior, rows, masks, problems.vector))
