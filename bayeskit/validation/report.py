"""What a validation found, as an object to print, to store and to raise from."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from bayeskit.errors import ValidationFailed

__all__ = ["Check", "Power", "Report"]

# Rows of the printed table, without those that failed: the most suspicious first.
_MAX_ROWS = 8
_WIDTH = 96


@dataclass(frozen=True, kw_only=True)
class Check:
    """One statement that was checked.

    Parameters
    ----------
    name : str
    passed : bool
    statistic, p_value : float, optional
        Of a statistical test; the p-value is not yet corrected for the number of tests.
    discrepancy : float, optional
        Of an exact check.
    tolerance : float, optional
        What the discrepancy may be.
    words : str
        What was found.
    model : str
        Which target it was checked on.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, validate
    >>> step = lambda key, x: (x + random.categorical(key, jnp.zeros(2))) % 3
    >>> check = validate(step, start=Atoms(np.arange(3), np.array([2.0, 1.0, 1.0]))).tests[0]
    >>> check.name, check.passed, check.discrepancy
    ('the measure is invariant', False, 0.125)
    """

    name: str
    passed: bool
    statistic: float | None = None
    p_value: float | None = None
    discrepancy: float | None = None
    tolerance: float | None = None
    words: str = ""
    model: str = ""


class Power(NamedTuple):
    """The smallest error that a validation would have found.

    Parameters
    ----------
    effect : float
        Mean of a test statistic in units of its standard deviation; in exact mode the
        relative tolerance.
    probability : float
        With which it is found.
    in_standard_deviations : float
        The same as a shift of the mean of a coordinate, in its standard deviations.
    replicates : tuple of int
        Replicates of each stage that may be needed.
    num_tests : int
    words : str

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, validate
    >>> step = lambda key, x: (x + random.categorical(key, jnp.zeros(2))) % 3
    >>> print(validate(step, start=Atoms(np.arange(3), np.ones(3))).power.words)
    finds any relative error above 1e-10, with certainty
    """

    effect: float
    probability: float
    in_standard_deviations: float
    replicates: tuple[int, ...]
    num_tests: int
    words: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of :func:`bayeskit.validate`.

    Parameters
    ----------
    verdict : {"pass", "fail", "inconclusive"}
        ``"pass"`` means that nothing was found by tests of the stated power.
    block : str
        What was validated.
    law : str
        The law it was held against.
    tests : tuple of Check
    worst : str
        The strongest sign against the law, in words.
    power : Power or None
    alpha : float
        Bound on the probability that a correct block fails; 0 in exact mode.
    seconds : float
        CPU seconds, compilation included.
    key : int or list of int
        The key that gives this report again.
    notes : tuple of str

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, validate
    >>> step = lambda key, x: (x + random.categorical(key, jnp.zeros(2))) % 3
    >>> report = validate(step, start=Atoms(np.arange(3), np.array([2.0, 1.0, 1.0])))
    >>> report.verdict, report.law
    ('fail', 'L3 invariant: π K = π')
    >>> print(report.worst)
    one step changes the mass of the state 0 from 0.5 to 0.375
    """

    verdict: str
    block: str
    law: str
    tests: tuple[Check, ...]
    worst: str
    power: Power | None
    alpha: float
    seconds: float
    key: Any
    notes: tuple[str, ...] = ()

    def raise_if_failed(self) -> None:
        """Raise unless the verdict is ``"pass"``.

        Raises
        ------
        ValidationFailed
            With what was found; also for ``"inconclusive"``, and then it says so.
        """
        if self.verdict == "pass":
            return
        if self.verdict == "inconclusive":
            what = f"the validation of {self.block} is inconclusive, which is no pass"
        else:
            what = f"{self.block} does not keep its law ({self.law})"
        raise ValidationFailed(f"{what}: {self.worst}\n\n{self}")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, strings, lists and dicts, fit for JSON.

        Numbers that are NaN or infinite, which JSON has not, become None.
        """
        plain = asdict(self)
        plain["power"] = None if self.power is None else self.power._asdict()
        return _plain(plain)

    def plot(self, *, num_rows: int = 12, ax: Any = None) -> Any:
        """Draw the most suspicious tests; see :func:`bayeskit.plots.validation_report`.

        Parameters
        ----------
        num_rows : int
            Most tests to draw.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        from bayeskit.plots import validation_report

        return validation_report(self, num_rows=num_rows, ax=ax)

    def __str__(self) -> str:
        rate = f"false alarms at most {self.alpha:g}" if self.alpha else "no false alarms"
        rows = [("law", self.law), ("worst", self.worst)]
        if self.power is not None:
            rows.append(("power", self.power.words))
        rows.append(("cost", f"{self.seconds:.1f} s of CPU time, {rate}, key={self.key}"))
        rows += [("note", note) for note in self.notes]
        lines = [line for name, text in rows for line in _wrapped(name, text)]
        head = f"{self.verdict.upper()}  {self.block}"
        return "\n".join([head, *lines, "", *_table(self.tests)])


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{name:<7}",
        subsequent_indent=" " * 7,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _suspicion(check: Check) -> tuple:
    p_value = 1.0 if check.p_value is None else check.p_value
    return (check.passed, p_value, -(check.discrepancy or 0.0))


def _table(tests: tuple[Check, ...]) -> list[str]:
    ordered = sorted(tests, key=_suspicion)
    num_failed = sum(not check.passed for check in tests)
    shown = ordered[: max(_MAX_ROWS, min(num_failed, 2 * _MAX_ROWS))]
    rows = [("", "check", "statistic", "p-value", "discrepancy")]
    for check in shown:
        name = f"{check.model}: {check.name}" if check.model else check.name
        numbers = (
            _number(check.statistic, ".2f"),
            _number(check.p_value, ".2g"),
            _number(check.discrepancy, ".2g"),
        )
        rows.append(("ok" if check.passed else "FAIL", name, *numbers))
    # A column without any number is left out.
    used = [i for i in range(5) if i < 2 or any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    lines = [
        "  ".join(f"{row[i]:{'<' if i < 2 else '>'}{widths[i]}}" for i in used) for row in rows
    ]
    hidden = len(tests) - len(shown)
    if hidden:
        lines.append(f"... and {hidden} less suspicious ones")
    return [line.rstrip() for line in lines]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def plain_key(key: Any) -> Any:
    """Return a key as plain integers, as a report keeps it."""
    if isinstance(key, int | np.integer):
        return int(key)
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return np.asarray(key).tolist()
