"""Guided filters: a state-space model with a proposal, as a Feynman-Kac model."""

from __future__ import annotations

from collections.abc import Callable

from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["guided_model"]


def guided_model(
    *,
    log_initial: Callable,
    log_transition: Callable,
    log_likelihood: Callable,
    initial_proposal: Callable,
    log_initial_proposal: Callable,
    proposal: Callable,
    log_proposal: Callable,
    num_steps: int,
    name: str = "γ",
) -> FeynmanKac:
    r"""Return the Feynman-Kac model of a state-space model that moves by a proposal.

    .. math:: G_0(x_0) = \frac{m_0(x_0)\, g_0(x_0)}{q_0(x_0)}, \qquad
        G_t(x_{t-1}, x_t) = \frac{m_t(x_{t-1}, x_t)\, g_t(x_t)}{q_t(x_{t-1}, x_t)}

    Its paths have the law of the state-space model whatever the proposal, as long as q is
    positive wherever m g is. ``particle_filter`` of it is the guided filter; with q equal to
    :math:`p(x_t \mid x_{t-1}, y_t)` it is the locally optimal one.

    Parameters
    ----------
    log_initial : callable (x) -> () array
        :math:`\log m_0`.
    log_transition : callable (t, x_previous, x) -> () array
        :math:`\log m_t`.
    log_likelihood : callable (t, x) -> () array
        :math:`\log g_t`, from t = 0 on; see :func:`ignore_missing` for missing observations.
    initial_proposal : callable (key) -> x
        One draw from :math:`q_0`.
    log_initial_proposal : callable (x) -> () array
    proposal : callable (key, t, x_previous) -> x
        One draw from :math:`q_t`, which may look at the observation at t.
    log_proposal : callable (t, x_previous, x) -> () array
    num_steps : int
    name : str

    Returns
    -------
    FeynmanKac
        With the same measure on paths as the model.

    References
    ----------
    Doucet, Godsill & Andrieu (2000), *On sequential Monte Carlo sampling methods for Bayesian
    filtering*.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> from jax.scipy.stats import norm
    >>> def toward(before):
    ...     return 0.5 * (before + 1.0)
    >>> model = bi.guided_model(
    ...     log_initial=norm.logpdf,
    ...     log_transition=lambda t, before, x: norm.logpdf(x, before),
    ...     log_likelihood=lambda t, x: norm.logpdf(1.0, x),
    ...     initial_proposal=lambda key: bi.random.normal(key),
    ...     log_initial_proposal=norm.logpdf,
    ...     proposal=lambda key, t, before: toward(before) + bi.random.normal(key),
    ...     log_proposal=lambda t, before, x: norm.logpdf(x, toward(before)),
    ...     num_steps=5,
    ... )
    >>> bi.run(bi.particle_filter(model, 100), key=0).num_particles
    100
    """

    def log_g(t, before, x):
        target = log_transition(t, before, x) + log_likelihood(t, x)
        return target - log_proposal(t, before, x)

    return FeynmanKac(
        initial=initial_proposal,
        log_g0=lambda x: log_initial(x) + log_likelihood(0, x) - log_initial_proposal(x),
        kernel=proposal,
        log_g=log_g,
        num_steps=num_steps,
        log_m0=log_initial_proposal,
        log_m=log_proposal,
        name=name,
    )
