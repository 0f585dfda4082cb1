"""The fitted estimator as a file that holds numbers and names only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bayeskit import container
from bayeskit.accel.program_cache import program_cache
from bayeskit.inference.posterior import Posterior
from bayeskit.models.base import precision_scope
from bayeskit.models.markov_gp.settings import as_kernel, from_plain, to_plain

__all__ = ["Saving"]


class Saving:
    """The part of the estimator that writes and reads files."""

    # What the estimator has.
    kernel: Any
    noise: Any
    likelihood: Any
    mean: Any
    method: Any
    num_starts: Any
    precision: Any
    progress: Any
    random_state: Any
    mean_: Any
    random_key_: Any
    result_: Any
    timing_: Any
    _are_dates: Any
    _check_fitted: Any
    _have_zone: Any
    _priors: Any
    _rows: Any
    _sites: Any
    _u: Any

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one file that holds numbers and names only.

        :func:`bayeskit.load` reads it. Parameters come back as they were, but for a
        ``random_state`` that is no whole number, and an engine in ``inference``: its draws are
        kept, and a new fit takes the maximum.
        """
        self._check_fitted()
        (x, y, variance), state = self._rows, self.random_state
        arrays = {"x": x, "y": y, "variance": variance, "u": self._u, "key": self.random_key_}
        arrays |= {"precision": self._sites[0], "information": self._sites[1]}
        arrays["mean"] = np.asarray(self.mean_)
        parameters: dict[str, Any] = {
            "kernel": to_plain(as_kernel(self.kernel)),
            "noise": to_plain(self.noise),
            "likelihood": self.likelihood,
            "method": self.method,
            "num_starts": self.num_starts,
            "progress": self.progress,
            "random_state": int(state) if isinstance(state, int | np.integer) else None,
            "mean": self.mean if self.mean == "auto" else float(self.mean),
            "are_dates": self._are_dates,
            "have_zone": self._have_zone,
            "float": self.precision,
            "priors": {name: to_plain(part) for name, part in self._priors.items()},
            "timing": self.timing_,
        }
        if hasattr(self, "result_"):
            more, drawn = self.result_.pack()
            parameters["result"] = more
            arrays |= {f"result:{name}": value for name, value in drawn.items()}
        container.write_container(path, "MarkovGPRegressor", parameters, arrays)

    @classmethod
    def _from_container(cls: Any, read: container.Container) -> Any:
        with container.unpacking(read.kind):
            return cls._unpacked(read)

    @classmethod
    def _unpacked(cls: Any, read: container.Container) -> Any:
        found, arrays = read.parameters, read.arrays
        names = ("likelihood", "method", "num_starts")
        gp = cls(
            from_plain(found["kernel"]),
            noise=from_plain(found["noise"]),
            precision=found["float"],
            mean=found.get("mean", float(arrays["mean"])),
            progress=found.get("progress", "auto"),
            random_state=found.get("random_state"),
            **{name: found[name] for name in names},
        )
        gp._are_dates = found.get("are_dates", False)
        gp._have_zone = found.get("have_zone", False)
        gp._priors = {name: from_plain(part) for name, part in found["priors"].items()}
        gp._keep_rows(arrays["x"], arrays["y"], arrays["variance"], float(arrays["mean"]))
        _check_rows(*gp._rows)
        gp._u, gp.random_key_, gp.timing_ = arrays["u"], arrays["key"], found["timing"]
        if "result" in found:
            drawn = {
                name.removeprefix("result:"): value
                for name, value in arrays.items()
                if name.startswith("result:")
            }
            gp.result_ = Posterior.unpack(found["result"], drawn)
        with precision_scope(gp.precision), program_cache():
            gp._condition()
        return gp


def _check_rows(x: np.ndarray, y: np.ndarray, variance: np.ndarray) -> None:
    """Refuse rows that no fit has kept."""
    if not x.ndim == 1 or not x.shape == y.shape == variance.shape or not x.size:
        raise ValueError(f"rows have shapes {x.shape}, {y.shape} and {variance.shape}")
    if not np.isfinite(x).all() or np.isinf(y).any() or not (variance >= 0).all():
        raise ValueError("rows hold numbers that are not finite, or variances below 0")
