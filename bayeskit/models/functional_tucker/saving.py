"""Estimators as files that hold numbers and names only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bayeskit import container
from bayeskit.accel.program_cache import program_cache
from bayeskit.models.base import precision_scope
from bayeskit.models.functional_tucker.files import pack_posterior, unpack_posterior
from bayeskit.models.functional_tucker.settings import from_plain, to_plain

__all__ = ["Saving"]


class Saving:
    """The part of the estimators that writes and reads files."""

    # What the estimators have.
    get_params: Any
    noise_std: Any
    categories_: Any
    names_: Any
    timing_: Any
    _check_fitted: Any
    _dates: Any
    _keep: Any
    _posterior: Any
    _set_up: Any
    _target: Any

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one file that holds numbers and names only.

        :func:`bayeskit.load` reads it. A ``random_state`` that is no whole number is left out.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        TypeError
            For transforms, and names of modes or categories, that are no text or numbers.
        """
        self._check_fitted()
        parameters = self.get_params(deep=False)
        if not isinstance(parameters["random_state"], int | np.integer):
            parameters["random_state"] = None
        learned, arrays = pack_posterior(self._posterior)
        stored = {
            "parameters": {name: to_plain(value) for name, value in parameters.items()},
            "names": to_plain(self.names_),
            "dates": [to_plain(name) for name in self.names_ if name in self._dates],
            "zoned": [to_plain(name) for name in self.names_ if self._dates.get(name)],
            "categories": to_plain({k: v.tolist() for k, v in self.categories_.items()}),
            "posterior": learned,
            "timing": self.timing_,
        }
        arrays = {f"posterior:{name}": value for name, value in arrays.items()}
        arrays |= {"table": self._posterior.table, "target": self._target}
        container.write_container(path, type(self).__name__, stored, arrays)

    @classmethod
    def _from_container(cls, read: container.Container) -> Any:
        with container.unpacking(read.kind):
            return cls._unpacked(read)

    @classmethod
    def _unpacked(cls, read: container.Container) -> Any:
        stored = read.parameters
        model = cls(**{k: from_plain(v) for k, v in stored["parameters"].items()})
        categories = {
            name: np.array(values, object)
            for name, values in from_plain(stored["categories"]).items()
        }
        arrays = {
            name.removeprefix("posterior:"): value
            for name, value in read.arrays.items()
            if name.startswith("posterior:")
        }
        names = tuple(from_plain(stored["names"]))
        with precision_scope("float64"), program_cache():
            given = model._set_up(
                names, read.arrays["table"], categories, read.arrays["target"]
            )
            model._posterior = unpack_posterior(
                stored["posterior"],
                arrays,
                given.problem,
                given.design,
                model.noise_std,
                given.t,
                given.seen,
            )
        zoned = from_plain(stored.get("zoned", []))
        model._dates = {name: name in zoned for name in from_plain(stored["dates"])}
        model._keep(given)
        model.timing_ = stored["timing"]
        return model
