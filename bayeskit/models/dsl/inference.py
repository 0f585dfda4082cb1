"""What a fitted estimator answers: tables, tests, effects, designs, posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.models.dsl.contrasts import Contrast
from bayeskit.models.dsl.describe import describe
from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.tables import Summary

__all__ = ["DSLInference"]


class DSLInference:
    """Questions to a fitted :class:`~bayeskit.DSLRegressor`, answered by its result."""

    result_: DSLResult

    def _check_fitted(self) -> None:
        raise NotImplementedError

    def _fitted(self) -> DSLResult:
        self._check_fitted()
        return self.result_

    def ci(self, level: float = 0.95) -> np.ndarray:
        """Return normal intervals (parameters, 2) of a level.

        Parameters
        ----------
        level : float in (0, 1)
        """
        return self._fitted().ci(level)

    def to_frame(self, level: float = 0.95) -> Any:
        """Return a table: estimate, se, z, two-sided p, and the interval, by term."""
        return self._fitted().to_frame(level)

    def summary(self, level: float = 0.95) -> Summary:
        """Return the table with what was done above it and what to mind below it.

        It prints as text, shows as HTML in notebooks, and has ``to_frame()`` and
        ``to_latex()``.
        """
        return describe(self, self._fitted(), level)

    def contrast(self, spec: Any) -> Contrast:
        """Return linear contrasts of coefficients, with a Wald test of all of them.

        Parameters
        ----------
        spec : str, sequence of str, dict, or (contrasts, parameters) array
            Such as ``"x1 - x2"`` or ``"x1 = 0, x2 = 0"``.
        """
        return self._fitted().contrast(spec)

    def power(self, sizes: Sequence[int] | None = None) -> Any:
        """Return the standard errors to expect with other numbers of labels.

        Parameters
        ----------
        sizes : sequence of int, optional
            Default: 1.1, 1.2 to 2 times the number there are.

        Returns
        -------
        DataFrame
            By number of labels; the first row is the fit itself.
        """
        return self._fitted().power(sizes)

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
        """
        return self._fitted().required_labels(
            term, target_se=target_se, effect=effect, power=power, level=level
        )
