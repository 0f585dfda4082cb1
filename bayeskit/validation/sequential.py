r"""Sequential tests whose false alarms are bounded by one number for a whole call.

A correct block should pass quickly and practically never fail; a wrong one should be found even
where its error is small. So a small experiment comes first, and only where it is undecided a
larger one with fresh random numbers follows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeskit import accel
from bayeskit.inference import random

__all__ = ["SequentialPlan", "SequentialResult", "sequential_test", "symmetric_p_value"]

# Bentkus & Dzindzalieta (2015): the best constant is 1 / (4 P(N(0, 1) >= sqrt(2))).
_RADEMACHER = 1.0 / (2.0 * math.erfc(1.0))


@dataclass(frozen=True)
class SequentialPlan:
    r"""How many replicates are drawn, and when a sequential test stops.

    With d tests and k stages let :math:`\beta_1 = \alpha / k` and
    :math:`\gamma = \beta_1^{1/k}`. Stage i draws :math:`n_i` fresh replicates and computes
    :math:`q = d \min_j p_j`:

    - :math:`q \le \beta_i`: fail;
    - :math:`q > \gamma`: pass;
    - else go on with :math:`\beta_{i+1} = \beta_i / \gamma` and
      :math:`n_{i+1} = \Delta n_i`. At the last stage :math:`\beta_k = \gamma`, so that one of
      the two holds.

    A correct block enters stage i with probability at most :math:`\gamma^{i-1}` and fails
    there with probability at most :math:`\beta_i \gamma^{i-1} = \beta_1`: altogether at most
    :math:`k \beta_1 = \alpha`.

    Parameters
    ----------
    alpha : float in (0, 1)
        Bound on the probability that a correct block fails.
    num_stages : int
    growth : int
        Factor :math:`\Delta` between the numbers of replicates of successive stages.
    first : int
        Replicates of the first stage.

    Raises
    ------
    ValueError
        For a number outside its range.

    References
    ----------
    Gandy & Scott (2020), *Unit testing for MCMC and other Monte Carlo methods*, a slight
    simplification of their algorithm 1.

    Examples
    --------
    >>> plan = SequentialPlan(alpha=1e-6, num_stages=3, growth=4, first=10_000)
    >>> plan.replicates
    (10000, 40000, 160000)
    >>> plan.pass_above
    0.0069
    """

    alpha: float = 1e-6
    num_stages: int = 7
    growth: int = 4
    first: int = 10_000

    def __post_init__(self):
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be a probability in (0, 1), got {self.alpha!r}")
        for name, least in (("num_stages", 1), ("growth", 2), ("first", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def replicates(self) -> tuple[int, ...]:
        """Replicates of each stage."""
        return tuple(self.first * self.growth**i for i in range(self.num_stages))

    @property
    def pass_above(self) -> float:
        r"""The number :math:`\gamma` that q must exceed to pass."""
        return (self.alpha / self.num_stages) ** (1.0 / self.num_stages)

    @property
    def fail_below(self) -> tuple[float, ...]:
        r"""The numbers :math:`\beta_i` that q must not exceed to fail, one for each stage."""
        first = self.alpha / self.num_stages
        levels = [first / self.pass_above**i for i in range(self.num_stages)]
        # Exactly the bound to pass, whatever rounding says: the last stage always decides.
        return (*levels[:-1], self.pass_above)

    def detection_probability(self, effect: float, num_tests: int) -> float:
        """Return the probability that a mean of ``effect`` standard deviations is found.

        Counted is the one test that sees the effect, with p-values as
        :func:`symmetric_p_value` gives them and many replicates.

        Parameters
        ----------
        effect : float
            Mean of the tested quantity divided by its standard deviation.
        num_tests : int
        """
        from scipy import special

        def at_most(level, num):
            bound = -special.ndtri(min(level / num_tests, 1.0) / (2.0 * _RADEMACHER))
            shift = abs(effect) * math.sqrt(num)
            return special.ndtr(shift - bound) + special.ndtr(-shift - bound)

        found, undecided = 0.0, 1.0
        for num, level in zip(self.replicates, self.fail_below, strict=True):
            found += undecided * at_most(level, num)
            undecided *= at_most(self.pass_above, num) - at_most(level, num)
        return float(found)

    def detectable_effect(self, num_tests: int, probability: float = 0.99) -> float:
        """Return the smallest effect that is found with a given probability.

        Parameters
        ----------
        num_tests : int
        probability : float in (0, 1)

        Returns
        -------
        float, in standard deviations of the tested quantity
        """
        low, high = 0.0, 100.0 / math.sqrt(self.first)
        # 60 halvings take the interval below the resolution of a double.
        for _ in range(60):
            middle = 0.5 * (low + high)
            if self.detection_probability(middle, num_tests) < probability:
                low = middle
            else:
                high = middle
        return high


@dataclass(frozen=True)
class SequentialResult:
    """How a sequential test ended.

    Parameters
    ----------
    verdict : {"pass", "fail", "inconclusive"}
        ``"inconclusive"`` if the budget did not suffice for the next stage.
    num_stages : int
        Stages done.
    num_replicates : int
        Replicates of the last stage done.
    p_values : (num_tests,) array
        Of the last stage done.
    smallest_p : float
        The smallest of them, before the correction for their number.
    threshold : float
        Below this the smallest p-value of the last stage means failure.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit.validation import sequential_test
    >>> result = sequential_test(lambda num, key: np.array([1e-12, 0.9]), 2)
    >>> result.verdict, result.num_stages, result.num_replicates
    ('fail', 1, 10000)
    >>> result.smallest_p < result.threshold
    True
    """

    verdict: str
    num_stages: int
    num_replicates: int
    p_values: np.ndarray
    smallest_p: float
    threshold: float


def sequential_test(
    run_stage: Callable[[int, Any], Any],
    num_tests: int,
    alpha: float = 1e-6,
    num_stages: int = 7,
    growth: int = 4,
    first: int = 10_000,
    *,
    key: Any = 0,
    budget_s: float | None = None,
) -> SequentialResult:
    """Test in stages until the verdict is clear; see :class:`SequentialPlan`.

    Parameters
    ----------
    run_stage : callable (num_replicates, key) -> (num_tests,) p-values
        Valid ones: if the block is correct, P(p <= x) <= x for every x. Each stage gets a
        fresh key.
    num_tests : int
    alpha, num_stages, growth, first
        As in :class:`SequentialPlan`.
    key : int or JAX key
    budget_s : float, optional
        CPU seconds. A stage is not begun if it would probably exceed them; the verdict is
        then ``"inconclusive"``, never a pass.

    Returns
    -------
    SequentialResult

    Raises
    ------
    ValueError
        If ``run_stage`` returns another number of p-values, or one that is no probability.

    Examples
    --------
    >>> import numpy as np
    >>> sequential_test(lambda num, key: np.array([0.3, 0.9]), 2).verdict
    'pass'
    >>> sequential_test(lambda num, key: np.array([1e-12, 0.9]), 2).verdict
    'fail'
    """
    plan = SequentialPlan(alpha, num_stages, growth, first)
    keys = random.split(accel.as_key(key), num_stages)
    began = time.process_time()
    stages = zip(keys, plan.replicates, plan.fail_below, strict=True)
    for number, (stage_key, num, level) in enumerate(stages, start=1):
        stage_began = time.process_time()
        p_values = _checked(run_stage(num, stage_key), num_tests)
        smallest = float(p_values.min())

        def result(verdict, number=number, num=num, level=level, p=p_values, q=smallest):
            return SequentialResult(verdict, number, num, p, q, level / num_tests)

        if num_tests * smallest <= level:
            return result("fail")
        if num_tests * smallest > plan.pass_above:
            return result("pass")
        now = time.process_time()
        expected = growth * (now - stage_began)
        if budget_s is not None and now - began + expected > budget_s:
            return result("inconclusive")
    raise AssertionError("the last stage always decides")


def _checked(p_values: Any, num_tests: int) -> np.ndarray:
    p_values = np.asarray(p_values, float)
    if p_values.shape != (num_tests,):
        raise ValueError(
            f"run_stage must return {num_tests} p-values, got shape {p_values.shape}"
        )
    if not ((p_values >= 0) & (p_values <= 1)).all():
        place = int(np.argmin((p_values >= 0) & (p_values <= 1)))
        raise ValueError(
            f"run_stage returned {p_values[place]} as p-value number {place}, which is no "
            "probability"
        )
    return p_values


def symmetric_p_value(total: Any, total_of_squares: Any) -> np.ndarray:
    r"""Return p-values for "each summand is symmetric about 0", valid at any size.

    With :math:`S = \sum_i d_i` and :math:`V^2 = \sum_i d_i^2`,

    .. math:: p = \min\{1,\; 2 c \, P(N(0,1) \ge |S| / V)\}, \qquad
        c = \frac{1}{4 P(N(0,1) \ge \sqrt 2)} \approx 3.178 .

    Given the sizes :math:`|d_i|` the signs are fair coins, so :math:`S/V` is a weighted sum of
    coins, and this bound holds for every weighting. No number of replicates has to be large
    and no moment has to exist; against a normal approximation the price is the factor c.

    Parameters
    ----------
    total, total_of_squares : (...) arrays
        S and V^2. Where V is 0, the p-value is 1.

    Returns
    -------
    (...) array in [0, 1]

    References
    ----------
    Bentkus & Dzindzalieta (2015), *A tight Gaussian bound for weighted sums of Rademacher
    random variables*, theorem 1.1 and its equation for self-normalised sums.

    Examples
    --------
    >>> symmetric_p_value([0.0, 60.0], [100.0, 100.0]).tolist()
    [1.0, 6.3e-09]
    """
    from scipy import special

    total = np.abs(np.asarray(total, float))
    size = np.sqrt(np.asarray(total_of_squares, float))
    ratio = np.where(size > 0, total / np.where(size > 0, size, 1.0), 0.0)
    return np.minimum(1.0, 2.0 * _RADEMACHER * special.ndtr(-ratio))
