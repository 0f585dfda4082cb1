"""What came out of many fits: results, failures, warnings, in the order of the fits."""

from __future__ import annotations

import dataclasses
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from bayeskit.errors import FitFailedError, FitFailedWarning

__all__ = ["ManyFits", "Outcome"]

# So many numbers of fits are named in a warning.
_MAX_NAMED = 10


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One fit that ended: its result, or why there is none."""

    index: int
    result: Any = None
    failure: FitFailedError | None = None
    # Category and text of each.
    warnings: tuple[tuple[type[Warning], str], ...] = ()
    seconds: float = float("nan")


class ManyFits(Sequence):
    """The results of :func:`~bayeskit.fit_many`, in the order of the fits.

    ``fits[i]`` is the result of fit i and raises :class:`~bayeskit.errors.FitFailedError` where
    that fit failed; so does iterating.

    Parameters
    ----------
    outcomes : sequence of Outcome
        One for each fit, as ``fit_many`` gathers them.

    Attributes
    ----------
    succeeded : dict
        Number of each fit that ended well -> its result.
    failures : dict
        Number of each other fit -> the FitFailedError, which has the traceback of the worker.
    warnings : dict
        Number of a fit -> its warnings, as pairs of category and text.
    seconds : list of float
        Time that each fit took on its worker, its compilation included; NaN where no worker
        brought it to an end.

    Examples
    --------
    >>> import bayeskit as bk
    >>> from sklearn.linear_model import BayesianRidge
    >>> short, right = [[1.0]], [[1.0], [2.0], [3.0]]
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     fits = bk.fit_many(BayesianRidge(), [(short, [1.0, 2.0]), (right, [1.0, 2.0, 3.5])])
    >>> list(fits.succeeded), list(fits.failures)
    ([1], [0])
    """

    def __init__(self, outcomes: Sequence[Outcome]):
        self._outcomes = list(outcomes)
        self.succeeded = {o.index: o.result for o in outcomes if o.failure is None}
        self.failures = {o.index: o.failure for o in outcomes if o.failure is not None}
        self.warnings = {o.index: list(o.warnings) for o in outcomes if o.warnings}
        self.seconds = [o.seconds for o in outcomes]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        outcome = self._outcomes[index]
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.result

    def __repr__(self) -> str:
        return f"ManyFits({len(self.succeeded)} succeeded, {len(self.failures)} failed)"

    def raise_if_failed(self) -> ManyFits:
        """Return these fits, or raise the first failure."""
        for failure in self.failures.values():
            raise failure
        return self

    def table(self) -> Any:
        """Return a DataFrame with a row for each fit: seconds, warnings, failure."""
        import pandas as pd

        rows = [
            {
                "seconds": o.seconds,
                "warnings": "; ".join(f"{kind.__name__}: {text}" for kind, text in o.warnings),
                "failure": "" if o.failure is None else str(o.failure),
            }
            for o in self._outcomes
        ]
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="fit"))

    def warn(self, stacklevel: int) -> None:
        """Issue one warning for the failures, and one for each kind of warning of the fits."""
        if self.failures:
            first = next(iter(self.failures.values()))
            message = f"{self._named(self.failures)} failed. The first: {first}"
            warnings.warn(message, FitFailedWarning, stacklevel=stacklevel + 1)
        by_category: dict[type[Warning], dict[int, str]] = defaultdict(dict)
        for index, items in self.warnings.items():
            for category, text in items:
                by_category[category].setdefault(index, text)
        for category, texts in by_category.items():
            message = f"{self._named(texts)} warned. The first: {next(iter(texts.values()))}"
            warnings.warn(message, category, stacklevel=stacklevel + 1)

    def _named(self, indices: Any) -> str:
        numbers = [str(i) for i in list(indices)[:_MAX_NAMED]]
        more = ", ..." if len(indices) > _MAX_NAMED else ""
        return f"{len(indices)} of {len(self)} fits ({', '.join(numbers)}{more})"
