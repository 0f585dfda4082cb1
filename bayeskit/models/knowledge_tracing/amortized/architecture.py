"""What a program of the amortised arm is compiled for, and the settings of its engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["AmortizedVariational", "Architecture", "amortized_engine"]

OBJECTIVES = ("elbo", "published")


@dataclass(frozen=True)
class Architecture:
    """Sizes and kinds, all of them static.

    Parameters
    ----------
    num_kc, num_categories : int
    graph : {"none", "given", "learned"}
    normalise : {"in_degree", "num_kc"}
        What each column of a learned graph is divided by.
    objective : {"elbo", "published"}
    """

    num_kc: int
    num_categories: int = 10
    graph: str = "none"
    normalise: str = "in_degree"
    objective: str = "elbo"

    @property
    def num_traits(self) -> int:
        """Forgetting, level, volatility, and transfer where there is a graph."""
        return 3 if self.graph == "none" else 4


@dataclass(frozen=True)
class AmortizedVariational:
    r"""Train recognition networks by stochastic variational inference, as PSI-KT did.

    This is the arm for comparison: the published model of three levels, without effects of
    items and without learning by practice,

    .. math::
        s_n \sim N(H s_{n-1}, R), \qquad
        z_{n,k} \sim N\bigl(e^{-\alpha D} z_{n-1,k} + (1 - e^{-\alpha D})
            (\mu + \gamma \textstyle\sum_i A_{ik} z_{n-1,i}),\;
            \sigma^2 (1 - e^{-2 \alpha D}) / (2 \alpha)\bigr), \qquad
        y_n \sim \text{Bernoulli}(\text{sigmoid}(z_{n,k_n})) ,

    with traits :math:`s_n` (forgetting α, level μ, volatility σ, transfer γ) of each learner
    that move at each row, and D the gap before the row. A network reads the rows of a learner
    once and says what is believed: no step of a gradient is taken for new rows or learners.

    Parameters
    ----------
    objective : {"elbo", "published"}
        ``"elbo"`` is a lower bound of the log evidence. Its posterior is the model with each
        answer replaced by normal factors of the networks, :math:`q(s, z) \propto p(s, z)
        \prod_n N(s_n; \cdot)\,N(z_n; m_n, v_n)`, so that later rows tell of earlier ones.
        ``"published"`` is a weighted sum, which is *not* a bound, with a posterior that is
        independent over rows; see Notes.
    num_categories : int
        Of the mixture of traits.
    num_samples : int
        Draws for each category and learner in each step of training.
    num_draws : int
        Quantiles of the traits of each category that filters and forecasts follow.
    num_epochs, batch_size, learning_rate, halving_epochs
        Of Adam, over batches of learners. The rate is halved every ``halving_epochs``.
        ``num_epochs=0`` keeps the starting values.
    weight_decay, max_norm : float
        L2 penalty in the gradient; the norm at which gradients are clipped.
    budget_s : float, optional
        Seconds after which training stops, at the next pause. What is learned then depends on
        the machine.

    Notes
    -----
    The published objective is the mean over rows of
    :math:`[\log p(s_n) + \log p(z_n) + \log p(y_n \mid z_n)] / 3`, given the means of the
    posterior one row before, with the first row counted 1e-4, plus a tenth of the entropies of
    q, minus ten times the divergence of the categories from uniform. A true bound needs weight
    one for each, and transitions from draws. A posterior that is independent over rows would
    also make a true bound useless here: two rows with a short gap have nearly the same state,
    which independent factors cannot say, so that the bound rewards forgetting at once; it is
    minus infinity for a gap of zero.

    Scales are standard deviations. The published program handed variances to a place that
    takes standard deviations, and its forecasts over several rows used the noise of one step
    only. Here the variance accumulates over all gaps, and over what is not known of the traits.

    Cost of a row of training: O(categories samples (n_kc + edges)); of a row filtered the same
    with ``num_draws``. Memory for each learner: categories × draws × 2 n_kc numbers.

    References
    ----------
    Zhou, Bamler, Wu & Tejero-Cantero (2024), *Predictive, scalable and interpretable knowledge
    tracing on structured domains*, ICLR.

    Examples
    --------
    >>> import bayeskit as bk
    >>> from bayeskit.models.knowledge_tracing import AmortizedVariational
    >>> engine = AmortizedVariational(num_categories=2, num_epochs=1)
    >>> table = {"learner": [0, 0], "kc": ["a", "b"], "time": [0.0, 1.0], "correct": [1, 0]}
    >>> tracer = bk.KnowledgeTracer(inference=engine, random_state=0).fit(table)
    >>> list(tracer.traits_.columns)[:2]
    ['forgetting', 'forgetting_sd']
    """

    objective: str = "elbo"
    num_categories: int = 10
    num_samples: int = 1
    num_draws: int = 4
    num_epochs: int = 200
    batch_size: int = 32
    learning_rate: float = 5e-3
    halving_epochs: int = 200
    weight_decay: float = 1e-5
    max_norm: float = 100.0
    budget_s: float | None = None

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {OBJECTIVES}, got {self.objective!r}")
        least = {"num_categories": 1, "num_samples": 1, "num_draws": 1, "num_epochs": 0}
        for name, value in {**least, "batch_size": 1, "halving_epochs": 1}.items():
            found = getattr(self, name)
            if not isinstance(found, int) or isinstance(found, bool) or found < value:
                raise ValueError(f"{name} must be a whole number >= {value}, got {found!r}")
        for name in ("learning_rate", "max_norm"):
            _check_number(name, getattr(self, name), positive=True)
        _check_number("weight_decay", self.weight_decay, positive=False)
        if self.budget_s is not None:
            _check_number("budget_s", self.budget_s, positive=True)


def _check_number(name: str, value: Any, *, positive: bool) -> None:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number or value < 0 or (positive and value == 0):
        wanted = "positive" if positive else "at least 0"
        raise ValueError(f"{name} must be a number, finite and {wanted}, got {value!r}")


def amortized_engine(inference: Any) -> AmortizedVariational | None:
    """Return the settings of the amortised arm if it is what was asked for."""
    if isinstance(inference, str):
        return AmortizedVariational() if inference == "amortized" else None
    return inference if isinstance(inference, AmortizedVariational) else None
