"""What a fitted estimator answers: tables, tests, effects, designs, posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.allocation import allocate_labels
from bayeskit.models.dsl.comparators import comparators
from bayeskit.models.dsl.contrasts import Contrast
from bayeskit.models.dsl.describe import describe
from bayeskit.models.dsl.marginal_effects import average_effects
from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.tables import Summary, coefficient_table

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

    def posterior(
        self,
        method: str = "bootstrap",
        *,
        draws: int = 2000,
        prior: Any = None,
        inference: Any = None,
        random_state: Any = None,
    ) -> Any:
        """Return a posterior of the coefficients, as an ArviZ object.

        Parameters
        ----------
        method : {"bootstrap", "quasi"}
            ``"bootstrap"``: each draw solves the moments with random weights of the units, or
            clusters. ``"quasi"``: the moments make a likelihood, which takes a prior.
        draws : int
            Of the bootstrap.
        prior : None, (mean, scale), dict, NumPyro distribution, or callable
            Of "quasi". None is flat; ``(0.0, 2.5)`` is normal for each coefficient; a dict has
            one for each of some terms; see :func:`bayeskit.models.dsl.priors.as_prior`.
        inference : engine, optional
            Of "quasi", such as ``NUTS()``. Default: ``EnsembleHMC()``.
        random_state : int, numpy random state, JAX key, or None
            Default: that of the estimator.

        Returns
        -------
        ArviZ InferenceData or DataTree
            With the variable ``coef`` by term; kept as ``posterior_``, and as a
            :class:`~bayeskit.Posterior` with diagnostics in ``posterior_result_``.

        Notes
        -----
        For linear moments and a flat prior, "quasi" is exactly normal with ``coef_`` and
        ``vcov_``. With a normal prior the posterior is normal, too.

        References
        ----------
        Chernozhukov & Hong (2003), *An MCMC approach to classical estimation*.
        """
        from bayeskit.models.dsl.posterior import bootstrap_posterior, quasi_posterior

        result, estimator = self._fitted(), self
        if random_state is None:
            random_state = estimator.random_state  # type: ignore[attr-defined]
        if method == "bootstrap":
            if prior is not None or inference is not None:
                raise ValueError("prior and inference are for method='quasi'")
            found = bootstrap_posterior(result, draws, random_state)
        elif method == "quasi":
            found = quasi_posterior(result, prior, inference, random_state)
            found.diagnostics.warn()
        else:
            raise ValueError(f"method must be 'bootstrap' or 'quasi', got {method!r}")
        self.posterior_result_ = found
        self.posterior_ = found.to_arviz(
            coords={"term": list(result.terms)}, dims={"coef": ["term"]}
        )
        return self.posterior_

    def quasi_likelihood(self) -> Any:
        """Return the log quasi-likelihood, a function of the coefficients for JAX.

        For models of one's own: ``numpyro.factor("labels", likelihood(theta))``.
        """
        from bayeskit.models.dsl.quasi_likelihood import QuasiLikelihood

        return QuasiLikelihood.of(self._fitted())

    def marginal_effects(
        self, variables: str | Sequence[str] | None = None, *, level: float = 0.95
    ) -> Any:
        """Return average marginal effects on the mean of the outcome, with their errors.

        Parameters
        ----------
        variables : str or sequence of str, optional
            Columns of numbers; of columns of 0 and 1 the effect of 1 against 0 is taken, of
            others the derivative. Default: all columns of numbers.
        level : float in (0, 1)

        Returns
        -------
        DataFrame
            With columns as of :meth:`to_frame`, by variable; of several outcomes by class.

        Notes
        -----
        Averages over the rows are corrected by labels, too, and the errors of all parts count.
        """
        result, estimator = self._fitted(), self
        design, table = estimator._design, estimator._table_  # type: ignore[attr-defined]
        if variables is None:
            classes = {v.name for v in table.variables if v.levels is not None}
            variables = [
                name
                for name in sorted(design.formula.covariate_columns - classes)
                if table.frame[name].dtype.kind in "biuf"
            ]
        names = [variables] if isinstance(variables, str) else list(variables)
        predictions = estimator.predictions_  # type: ignore[attr-defined]
        estimate, covariance, labels = average_effects(
            names, design, table, predictions, result
        )
        return coefficient_table(estimate, np.sqrt(np.diag(covariance)), labels, level)

    def compare(self, level: float = 0.95) -> Any:
        """Return the fit beside labels alone, predictions alone and surrogates alone.

        Intervals of the last two are not valid: errors of the labels are taken for the truth.

        Returns
        -------
        DataFrame
            With columns as of :meth:`to_frame`, by method and term.
        """
        import pandas as pd

        terms = self._fitted().terms
        tables = {
            name: coefficient_table(found.coef, found.se, terms, level)
            for name, found in comparators(self).items()
        }
        return pd.concat(tables, names=["method", "term"])

    def label_diagnostics(self, variable: str | None = None) -> Any:
        """Return labels and their cross-fitted predictions, for a look at the learner.

        Parameters
        ----------
        variable : str, optional
            Default: the only predicted variable.

        Returns
        -------
        DataFrame
            Of labelled rows: ``label``, ``prediction`` (mean over repeats) and ``residual``; of
            classes one row for each row and class.
        """
        import pandas as pd

        self._check_fitted()
        table = self._table_  # type: ignore[attr-defined]
        names = [v.name for v in table.variables]
        if variable is None and len(names) == 1:
            (variable,) = names
        if variable not in names:
            raise InvalidDataError(f"variable must be one of {names}, got {variable!r}")
        chosen, at = table.variable(variable), table.labeled
        guess = self.predictions_[variable].mean(axis=0)[at]  # type: ignore[attr-defined]
        label, index = chosen.values[at], table.frame.index[at]
        if chosen.levels is not None:
            label = np.eye(len(chosen.levels))[label.astype(int)].ravel()
            index = pd.MultiIndex.from_product([index, chosen.levels], names=[None, "class"])
        found = pd.DataFrame({"label": label, "prediction": guess.ravel()}, index=index)
        return found.assign(residual=found.label - found.prediction)

    def detectable_effect(
        self,
        term: Any = None,
        num_labels: int | None = None,
        *,
        power: float = 0.8,
        level: float = 0.95,
    ) -> float:
        """Return the smallest coefficient that a test finds with a given probability.

        Parameters
        ----------
        term : str or int
        num_labels : int, optional
            Default: those there are.
        power : float in (0, 1)
        level : float in (0, 1)
            The test is two-sided at ``1 - level``.
        """
        return self._fitted().detectable_effect(term, num_labels, power=power, level=level)

    def allocate_labels(self, budget: float, data: Any = None, **settings: Any) -> Any:
        """Return probabilities of labelling that make standard errors small.

        See :func:`bayeskit.models.dsl.allocate_labels`; this fit is the pilot.

        Parameters
        ----------
        budget : float
            Expected number of labels.
        data : DataFrame, optional
            Rows to choose from. Default: those of the fit.
        **settings
            ``term``, ``floor``, ``uniform_share``, ``learner``.
        """
        return allocate_labels(data, budget, pilot=self, **settings)
