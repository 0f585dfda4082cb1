"""The result of an engine: draws, evidence, diagnostics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bayeskit import container
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.interop.arviz import effective_sample_sizes, rank_normalized_rhat, to_arviz

__all__ = ["Posterior"]

# Labels of the columns of a summary: intervals are named, never left to a default.
_QUANTILES = {"5%": 0.05, "median": 0.5, "95%": 0.95}


@dataclass(frozen=True, eq=False)
class Posterior:
    """Equally weighted draws from a posterior and what is known about them.

    Parameters
    ----------
    draws : dict of arrays (chain, draw, ...)
        In the user's coordinates. Safe to use unweighted.
    positions : array (chain, draw, dim)
        The same draws as the vectors that the engine moved.
    sample_stats : dict of arrays (chain, draw)
    log_evidence : float or None
        Log of the integral of prior times likelihood; None if the engine estimates none.
    log_evidence_se : float or None
        Its standard error, from this run alone.
    diagnostics : Diagnostics
    history : dict of arrays (stage, ...)
        Temperatures, effective sample sizes, acceptance along the run.
    engine : str
        What ran, with its settings.
    law : str
        What the numbers are guaranteed to be, as derived from the blocks.
    timing : dict of float
        Seconds: ``compile_s`` and ``run_s``, and parts of the latter where the engine tells.
    interrupted : bool
        Whether the run was stopped early, by Ctrl-C or its time limit. The draws are then the
        first of those that it would have made.

    Examples
    --------
    >>> import numpy as np
    >>> import bayeskit as bk
    >>> from bayeskit.inference.diagnostics import Diagnostics
    >>> draws = np.array([[[0.0], [2.0]], [[1.0], [5.0]]])  # chain, draw, dim
    >>> checks = Diagnostics(1.0, 4.0, 4.0, 0, 0, 0.8)
    >>> posterior = bk.Posterior({"height": draws[..., 0]}, draws, {}, checks)
    >>> posterior.num_draws, posterior.flat("height").tolist(), float(posterior.mean("height"))
    (4, [0.0, 2.0, 1.0, 5.0], 2.0)
    """

    draws: dict[str, np.ndarray]
    positions: np.ndarray
    sample_stats: dict[str, np.ndarray]
    diagnostics: Diagnostics
    log_evidence: float | None = None
    log_evidence_se: float | None = None
    history: dict[str, np.ndarray] = field(default_factory=dict)
    engine: str = ""
    law: str = ""
    timing: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def num_draws(self) -> int:
        """Number of draws over all chains."""
        return self.positions.shape[0] * self.positions.shape[1]

    def flat(self, name: str) -> np.ndarray:
        """Return the draws of one parameter with chains joined, (draw, ...)."""
        values = self.draws[name]
        return values.reshape(-1, *values.shape[2:])

    def mean(self, name: str) -> np.ndarray:
        """Return the posterior mean of one parameter."""
        return self.flat(name).mean(axis=0)

    def sd(self, name: str) -> np.ndarray:
        """Return the posterior standard deviation of one parameter."""
        return self.flat(name).std(axis=0, ddof=1)

    def summary(self, labels: dict[str, Any] | None = None) -> Any:
        """Return a table with one row for each scalar parameter.

        Columns: mean, sd, the 5 %, 50 % and 95 % quantiles, Monte-Carlo standard error of the
        mean, bulk and tail effective sample size, and rank-normalised split R-hat.

        Parameters
        ----------
        labels : dict, optional
            Names of the entries of vector parameters.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        bulk = effective_sample_sizes(self.draws, "bulk")
        tail = effective_sample_sizes(self.draws, "tail")
        r_hat = rank_normalized_rhat(self.draws)
        rows = {}
        for name in self.draws:
            values = self.flat(name)
            for index in np.ndindex(values.shape[1:]):
                one = values[(slice(None), *index)]
                sd = one.std(ddof=1)
                rows[_label(name, index, labels)] = {
                    "mean": one.mean(),
                    "sd": sd,
                    **{label: np.quantile(one, q) for label, q in _QUANTILES.items()},
                    "mcse_mean": sd / np.sqrt(bulk[name][index]),
                    "ess_bulk": bulk[name][index],
                    "ess_tail": tail[name][index],
                    "r_hat": r_hat[name][index],
                }
        return pd.DataFrame.from_dict(rows, orient="index")

    def to_arviz(
        self,
        groups: dict[str, dict[str, np.ndarray]] | None = None,
        coords: dict[str, Any] | None = None,
        dims: dict[str, list[str]] | None = None,
    ) -> Any:
        """Return an ArviZ object with groups ``posterior`` and ``sample_stats``, and others.

        Parameters
        ----------
        groups : dict, optional
            More groups, such as ``log_likelihood``, ``prior`` or ``observed_data``.
        """
        everything = {"posterior": self.draws, "sample_stats": self.sample_stats}
        return to_arviz({**everything, **(groups or {})}, coords, dims)

    def save(self, path: str | Path) -> None:
        """Write the posterior to one file that holds numbers only and cannot run code."""
        container.write_container(path, "Posterior", *self.pack())

    @classmethod
    def load(cls, path: str | Path) -> Posterior:
        """Read a posterior that :meth:`save` wrote.

        Raises
        ------
        CorruptFileError
            If the file is not such a file, or was changed.
        """
        read = container.read_container(path, kinds={"Posterior"})
        return cls.unpack(read.parameters, read.arrays)

    def pack(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return plain parameters and named arrays, for a container."""
        arrays = {"positions": self.positions}
        for group in ("draws", "sample_stats", "history"):
            for name, values in getattr(self, group).items():
                arrays[f"{group}/{name}"] = np.asarray(values)
        # Numbers that may be NaN are stored as arrays: JSON has none.
        scalars = {
            "log_evidence": self.log_evidence,
            "log_evidence_se": self.log_evidence_se,
        }
        for name, value in scalars.items():
            if value is not None:
                arrays[f"scalar/{name}"] = np.asarray(value, np.float64)
        plain = self.diagnostics.as_dict()
        reasons = plain.pop("reasons")
        for name, value in plain.items():
            arrays[f"diagnostics/{name}"] = np.asarray(value)
        parameters = {
            "engine": self.engine,
            "law": self.law,
            "timing": {k: float(v) for k, v in self.timing.items()},
            "reasons": reasons,
            "interrupted": self.interrupted,
        }
        return parameters, arrays

    @classmethod
    def unpack(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Posterior:
        """Return the posterior that :meth:`pack` took apart.

        Raises
        ------
        CorruptFileError
            For anything that :meth:`pack` does not return.
        """
        with container.unpacking("Posterior"):
            return cls._unpacked(parameters, arrays)

    @classmethod
    def _unpacked(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Posterior:
        _check_packed(parameters, arrays)
        groups: dict[str, dict[str, Any]] = {}
        for name, values in arrays.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = values
        scalars = {name: float(v) for name, v in groups.get("scalar", {}).items()}
        plain = {name: v.item() for name, v in groups["diagnostics"].items()}
        return cls(
            draws=groups["draws"],
            positions=arrays["positions"],
            sample_stats=groups.get("sample_stats", {}),
            diagnostics=Diagnostics(**plain, reasons=tuple(parameters["reasons"])),
            log_evidence=scalars.get("log_evidence"),
            log_evidence_se=scalars.get("log_evidence_se"),
            history=groups.get("history", {}),
            engine=parameters["engine"],
            law=parameters["law"],
            timing=parameters["timing"],
            # Files from before runs could be stopped do not say.
            interrupted=parameters.get("interrupted", False),
        )


def _check_packed(parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Refuse parts of other types and shapes than those of a posterior."""
    positions = arrays["positions"]
    if positions.ndim != 3 or positions.dtype.kind != "f":
        raise ValueError(f"positions have shape {positions.shape} and dtype {positions.dtype}")
    names = [name for name in arrays if name.startswith("draws/")]
    if not names:
        raise ValueError("there are no draws")
    for name in names:
        if (
            arrays[name].shape[:2] != positions.shape[:2]
            or arrays[name].dtype.kind not in "biuf"
        ):
            raise ValueError(f"{name} has shape {arrays[name].shape}")
    is_text = all(isinstance(parameters[name], str) for name in ("engine", "law"))
    reasons, timing = parameters["reasons"], parameters["timing"]
    is_text &= isinstance(reasons, list) and all(isinstance(one, str) for one in reasons)
    if not is_text or not isinstance(parameters.get("interrupted", False), bool):
        raise TypeError("engine, law and reasons must be text, and interrupted a bool")
    if not all(type(seconds) in (int, float) for seconds in timing.values()):
        raise TypeError("timing must hold numbers")


def _label(name: str, index: tuple[int, ...], labels: dict[str, Any] | None) -> str:
    if not index:
        return name
    if labels and name in labels and len(index) == 1:
        return f"{name}[{labels[name][index[0]]}]"
    return f"{name}[{', '.join(map(str, index))}]"
