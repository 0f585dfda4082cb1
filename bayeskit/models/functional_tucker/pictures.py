"""Factors in a form that can be looked at, and pictures of them and of the fit.

Functions of modes and the core are known up to scales and signs. Here functions have an
expected mean square of one over the rows, and the core takes their sizes. The expectation
counts what is uncertain, too: functions without data are as large as in their prior.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeskit.inference.gp_kernels import White
from bayeskit.models.functional_tucker.additive.design import column_of
from bayeskit.models.functional_tucker.naming import place_of_mode
from bayeskit.models.functional_tucker.terms import term_label
from bayeskit.models.markov_gp.rows import as_dates, observations, with_zone

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

    # What the estimators have.
    factors: Any
    functions: Any
    transform: Any
    terms_: tuple[Any, ...]
    _place_of: Any
    predict_quantiles: Any
    _posterior: Any
    _check_fitted: Any
    _with_factors: Any
    names_: tuple[Any, ...]
    categories_: Any
    _dates: Any
    transform_: Any

    def core_sizes(self) -> np.ndarray:
        """Return the core that goes with functions of expected mean square one over the rows.

        Of a CP model, the sizes of the components, from the largest to the smallest: what each
        adds, as root mean square, where the coordinates of rows are independent. That of a
        component that is switched off is small. In units of the transformed target.

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
            Default: across the data; all values of a category.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        from bayeskit.plots import factor_functions

        form = self._standard_form()
        place = place_of_mode(self.names_, mode)
        is_category = isinstance(self._posterior.problem.parameters[place].base[0], White)
        if grid is None:
            x = np.unique(self._posterior.data.grids[place].x)
            line = np.linspace(x[0], x[-1], _NUM_POINTS)
            grid = self._values(place, x if is_category else line)
        mean, std = self.factors(mode, grid, return_std=True)
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
            value_label="function, mean square 1",
            ax=ax,
        )

    def plot_function(
        self, term: Any, grid: Any = None, *, centred: bool = True, ax: Any = None
    ) -> Any:
        """Draw the function of one term of the mean, and its band from 5 % to 95 %.

        Parameters
        ----------
        term, centred
            As for :meth:`functions`.
        grid : (points) array, optional
            Default: across the data; all values of a category.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        from bayeskit.plots import factor_functions

        self._check_fitted()
        place = self._place_of(term)
        found = self.terms_[place]
        mode = place_of_mode(self.names_, found.mode)
        is_white = [isinstance(part, White) for part in found.kernel.terms]
        if grid is None:
            x = np.unique(column_of(self._posterior.design, place, self._posterior.table))
            line = np.linspace(x[0], x[-1], _NUM_POINTS)
            # Between its values a white kernel says nothing of a function.
            grid = self._values(mode, x if any(is_white) else line)
        mean, std = self.functions(place, grid, return_std=True, centred=centred)
        what = "function less its mean" if centred else "function"
        return factor_functions(
            grid,
            mean[:, None],
            std[:, None],
            names=[f"{term_label(found)}, 5 % to 95 %"],
            joined=not all(is_white),
            label=str(found.mode),
            value_label=what if self.transform is None else f"{what}, transformed",
            ax=ax,
        )

    def plot_core(self, *, ax: Any = None) -> Any:
        """Draw what :meth:`core_sizes` returns, and return the Axes."""
        from bayeskit.plots import core_entries

        core = self._standard_form().core
        return core_entries(core, names=[str(name) for name in self.names_], ax=ax)

    def plot_fit(self, X: Any, y: Any, *, level: float = 0.9, ax: Any = None) -> Any:
        """Draw observations against medians and intervals of their predictions.

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
        from bayeskit.plots import observed_predicted

        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level!r}")
        tail = 0.5 * (1.0 - level)
        low, middle, high = self.predict_quantiles(X, [tail, 0.5, 1.0 - tail])
        seen = observations(y, len(middle))
        return observed_predicted(seen, middle, low, high, level=level, ax=ax)

    def plot_bound(self, *, ax: Any = None) -> Any:
        """Draw how the lower bound of the evidence rose to ``elbo_[-1]``."""
        from bayeskit.plots import bound_over_rounds

        self._check_fitted()
        if not hasattr(self, "elbo_"):
            raise ValueError("there is no lower bound: see log_evidence_")
        return bound_over_rounds(self.elbo_, ax=ax)

    def _standard_form(self) -> StandardForm:
        posterior = self._with_factors()
        data = posterior.data
        scales = []
        for mode, (grid, place) in enumerate(zip(data.grids, data.places, strict=True)):
            found = self.factors(mode, self._values(mode, grid.x), return_std=True)
            mean, std = (part[place] for part in found)
            size = np.sqrt(np.average(mean**2 + std**2, axis=0, weights=data.weight))
            peak = np.take_along_axis(mean, np.abs(mean).argmax(0)[None], 0)[0]
            scales.append(np.where((peak < 0) & (mode > 0), -size, size))
        unit = self.transform_.scale
        if not hasattr(self, "core_"):
            # The first mode takes the signs of the others, so that sizes are positive.
            scales[0] = scales[0] * np.prod(np.sign(scales[1:]), axis=0)
            core = unit * np.prod(np.abs(scales), axis=0)
            order = (np.argsort(-core, kind="stable"),) * len(scales)
            return StandardForm(tuple(scales), order, core[order[0]])
        core = unit * self.core_
        for axis, scale in enumerate(scales):
            core = core * scale.reshape(-1, *[1] * (core.ndim - axis - 1))
        return StandardForm(tuple(scales), tuple(np.arange(len(s)) for s in scales), core)

    def _values(self, mode: int, x: np.ndarray) -> np.ndarray:
        """Return the values of a mode at coordinates, which are the names of categories."""
        names = self.categories_.get(self.names_[mode])
        if names is not None:
            return names[x.astype(int)]
        name = self.names_[mode]
        if name not in self._dates:
            return x
        return with_zone(as_dates(x)) if self._dates[name] else as_dates(x)
