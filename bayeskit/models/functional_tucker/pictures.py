r"""Factors in a form that can be looked at, and pictures of them and of the fit.

Functions of modes and the core are known up to scales and signs, which here are fixed: functions
have mean square one over the rows, and the core takes their sizes. Only what is computed from
the laws of the parts is drawn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeskit.inference.gp_kernels import White

__all__ = ["Pictures", "StandardForm"]

# Points of a line.
_NUM_POINTS = 200


class StandardForm(NamedTuple):
    """Functions of mean square one, and the core that goes with them.

    Parameters
    ----------
    scales : tuple of (R_k,) arrays
        What the functions of each mode are divided by. Beyond the first mode, the sign makes
        the largest value positive.
    order : tuple of (R_k,) int arrays
        Of a CP model: components from the largest to the smallest.
    core : (R,) or (R_1, ..., R_K) array
    """

    scales: tuple[np.ndarray, ...]
    order: tuple[np.ndarray, ...]
    core: np.ndarray


class Pictures:
    """What functional tensor models show of their components."""

    _posterior: Any
    names_: tuple[Any, ...]
    transform_: Any

    def core_sizes(self) -> np.ndarray:
        """Return the core that goes with functions of mean square one over the rows.

        For a CP model, how much each component adds, from the largest to the smallest: its root
        mean square, where the modes of rows are independent. One that is switched off is about
        zero. In units of the transformed target.

        Returns
        -------
        sizes : (R,) array, or (R_1, ..., R_K) array of a Tucker model
        """
        return self._standard_form().core

    def plot_factors(self, mode: Any, grid: Any = None, *, ax: Any = None) -> Any:
        """Draw the functions of a mode, with mean square one over the rows, and their bands.

        Parameters
        ----------
        mode : column name or position
        grid : (points) array, optional
            Default: across the data; for the values of a category, all of them.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        from bayeskit.plots import factor_functions

        form = self._standard_form()
        place = self._place_of_mode(mode)
        is_category = isinstance(self._posterior.problem.parameters[place].base[0], White)
        if grid is None:
            x = np.unique(self._posterior.data.grids[place].x)
            grid = x if is_category else np.linspace(x[0], x[-1], _NUM_POINTS)
        mean, std = self.factors(mode, grid, return_std=True)  # type: ignore[attr-defined]
        order, scale = form.order[place], form.scales[place]
        names = [f"function {r}" for r in range(len(scale))]
        if form.core.ndim == 1:
            names = [f"component {r}: {size:.2g}" for r, size in enumerate(form.core)]
        return factor_functions(
            grid,
            (mean / scale)[:, order],
            (std / np.abs(scale))[:, order],
            names=names,
            joined=not is_category,
            label=str(self.names_[place]),
            ax=ax,
        )

    def plot_core(self, *, ax: Any = None) -> Any:
        """Draw what :meth:`core_sizes` returns, and return the Axes."""
        from bayeskit.plots import core_entries

        return core_entries(
            self._standard_form().core, names=[str(name) for name in self.names_], ax=ax
        )

    def plot_fit(self, X: Any, y: Any, *, level: float = 0.9, ax: Any = None) -> Any:
        """Draw observations against their predictions with intervals.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
            Rows that the fit has not seen tell more.
        y : (rows) array
        level : float
            Probability of the intervals.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        from bayeskit.models.markov_gp.rows import observations
        from bayeskit.plots import observed_predicted

        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level!r}")
        tail = 0.5 * (1.0 - level)
        low, middle, high = self.predict_quantiles(  # type: ignore[attr-defined]
            X, [tail, 0.5, 1.0 - tail]
        )
        return observed_predicted(observations(y, len(middle)), middle, low, high, ax=ax)

    def plot_bound(self, *, ax: Any = None) -> Any:
        """Draw how the lower bound of the evidence rose to ``elbo_[-1]``."""
        from bayeskit.plots import bound_over_rounds

        self._check_fitted()  # type: ignore[attr-defined]
        if not hasattr(self, "elbo_"):
            raise ValueError("this model was fitted exactly, in one step: see log_evidence_")
        return bound_over_rounds(self.elbo_, ax=ax)

    def _standard_form(self) -> StandardForm:
        self._check_factors()  # type: ignore[attr-defined]
        posterior = self._posterior
        data, beliefs = posterior.data, posterior.found.beliefs
        scales, sizes = [], []
        for mode, (law, place) in enumerate(zip(beliefs.modes, data.places, strict=True)):
            values = np.asarray(law.mean)[place]
            size = np.sqrt(np.average(values**2, axis=0, weights=data.weight))
            peak = np.take_along_axis(values, np.abs(values).argmax(0)[None], 0)[0]
            sign = np.where((peak < 0) & (mode > 0), -1.0, 1.0)
            sizes.append(sign * size)
            # A function that is zero stays zero.
            scales.append(sign * np.where(size > 0, size, 1.0))
        unit = self.transform_.scale
        if beliefs.core is None:
            # The first mode takes the signs of the others, so that sizes are positive.
            scales[0] = scales[0] * np.prod(np.sign(scales[1:]), axis=0)
            core = unit * np.prod(np.abs(sizes), axis=0)
            order = (np.argsort(-core, kind="stable"),) * len(scales)
            return StandardForm(tuple(scales), order, core[order[0]])
        core = unit * np.asarray(beliefs.core.mean)
        for axis, size in enumerate(sizes):
            core = core * size.reshape(-1, *[1] * (core.ndim - axis - 1))
        return StandardForm(tuple(scales), tuple(np.arange(len(s)) for s in scales), core)
