"""The result of a fit: estimates, tests, and what more labels would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.contrasts import Contrast, linear_contrast
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.estimation import SplitEstimates
from bayeskit.models.dsl.power import (
    minimal_labels,
    predicted_se,
    sizes_or_default,
    target_of_test,
)
from bayeskit.models.dsl.tables import coefficient_table, normal_quantile, two_sided_p_values

__all__ = ["DSLResult"]

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class DSLResult:
    """Estimates by design-based supervised learning.

    Parameters
    ----------
    terms : tuple of str
        Names of the coefficients; of several outcomes, one outcome after the other.
    splits : SplitEstimates
        Estimates by repeat, and their combination.
    data : MomentData
        What the moments are made of.

    Examples
    --------
    The slope is 2, of 400 rows a quarter have labels:

    >>> import numpy as np, pandas as pd
    >>> import bayeskit as bk
    >>> rng = np.random.default_rng(0)
    >>> x, noise, error = rng.normal(size=(3, 400))
    >>> y = 1.0 + 2.0 * x + noise
    >>> table = pd.DataFrame({"x": x, "y": y, "guess": y + error})
    >>> table.loc[100:, "y"] = np.nan
    >>> settings = {"formula": "y ~ x", "predicted": {"y": "guess"}, "features": ["x"]}
    >>> model = bk.DSLRegressor(**settings, learner="linear", random_state=0)
    >>> result = model.fit(table).result_
    >>> result.to_frame()["estimate"].round(2).to_dict(), result.num_labeled
    ({'Intercept': 0.97, 'x': 2.08}, 100)
    >>> result.power([400])["x"].round(2).tolist()  # standard errors, now and with all labels
    [0.08, 0.05]
    """

    terms: tuple[str, ...]
    splits: SplitEstimates
    data: MomentData

    @property
    def coef(self) -> np.ndarray:
        """Coefficients (parameters)."""
        return self.splits.coef

    @property
    def se(self) -> np.ndarray:
        """Standard errors (parameters)."""
        return self.splits.se

    @property
    def vcov(self) -> np.ndarray:
        """Covariance (parameters, parameters)."""
        return self.splits.covariance

    @property
    def pvalues(self) -> np.ndarray:
        """Two-sided p-values (parameters) against 0."""
        return two_sided_p_values(self.coef, self.se)

    @property
    def num_labeled(self) -> int:
        """Number of labelled units."""
        return len(self.data.labeled)

    def ci(self, level: float = 0.95) -> np.ndarray:
        """Return normal intervals (parameters, 2)."""
        half = normal_quantile(level) * self.se
        return np.stack([self.coef - half, self.coef + half], axis=1)

    def to_frame(self, level: float = 0.95) -> Any:
        """Return a table of estimates, standard errors, tests and intervals, by term."""
        return coefficient_table(self.coef, self.se, self.terms, level)

    def contrast(self, spec: Any) -> Contrast:
        """Return linear contrasts, as of :meth:`bayeskit.DSLRegressor.contrast`."""
        return linear_contrast(spec, self.coef, self.vcov, self.terms)

    def place(self, term: Any) -> int:
        """Return the place of a coefficient, given by name or by number."""
        if term is None and len(self.terms) == 1:
            return 0
        if isinstance(term, str) and term in self.terms:
            return self.terms.index(term)
        if isinstance(term, int | np.integer) and 0 <= term < len(self.terms):
            return int(term)
        raise InvalidDataError(f"term must be one of {list(self.terms)}, got {term!r}")

    @property
    def max_labels(self) -> int:
        """Number of labels beyond which some probability would exceed 1.

        Raises
        ------
        InvalidDataError
            For fits without labels.
        """
        if not self.num_labeled:
            raise InvalidDataError(
                "this fit uses no labels, so that more of them change nothing: fit with "
                "method='dsl'"
            )
        largest = float(self.data.probability.max())
        return max(self.num_labeled, int(np.floor(self.num_labeled / largest + _ROUNDING)))

    def power(self, sizes: Sequence[int] | None = None) -> Any:
        """Return the standard errors to expect with more labels, or with fewer.

        Parameters
        ----------
        sizes : sequence of int, optional
            Numbers of labels. Default: 1.1, 1.2 to 2 times those there are.

        Returns
        -------
        DataFrame
            By number of labels, with a column for each term. The first row is the fit itself.
        """
        import pandas as pd

        wanted = sizes_or_default(sizes, self.num_labeled, self.max_labels)
        rows = predicted_se(self.splits, wanted / self.num_labeled)
        index = pd.Index([self.num_labeled, *wanted.tolist()], name="n_labeled")
        values = np.concatenate([self.se[None], rows])
        return pd.DataFrame(values, index=index, columns=list(self.terms))

    def required_labels(
        self,
        term: Any = None,
        *,
        target_se: float | None = None,
        effect: float | None = None,
        power: float = 0.8,
        level: float = 0.95,
    ) -> int:
        """Return the least number of labels for a standard error, or to find an effect.

        Parameters
        ----------
        term : str or int
        target_se : float
        effect : float
            Instead of ``target_se``: a coefficient that a two-sided test at ``1 - level`` shall
            find with probability ``power``.

        Raises
        ------
        InvalidDataError
            If no number of labels is enough, with the standard error that the most would give.
        """
        if (target_se is None) == (effect is None):
            raise ValueError("give either target_se or effect")
        if target_se is None:
            target_se = target_of_test(float(effect), power, level)  # type: ignore[arg-type]
        return minimal_labels(
            self.splits, self.place(term), target_se, self.num_labeled, self.max_labels
        )

    def detectable_effect(
        self,
        term: Any = None,
        num_labels: int | None = None,
        *,
        power: float = 0.8,
        level: float = 0.95,
    ) -> float:
        """Return the smallest coefficient that a two-sided test finds with this power."""
        place = self.place(term)
        se = self.se[place]
        if num_labels is not None:
            sizes = sizes_or_default([num_labels], self.num_labeled, self.max_labels)
            se = predicted_se(self.splits, sizes / self.num_labeled)[0, place]
        return float(se / target_of_test(1.0, power, level))
