"""Models to validate on: exact draws, exact masses and known normalising constants.

None is symmetric about the origin, and most are about no point: a mistake of sign, or a
forgotten mean, cancels on a symmetric target and would pass every test there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.measure import Target
from bayeskit.validation.battery_posteriors import (
    beta_binomial,
    log_gamma_draw,
    regression,
    simplex,
)
from bayeskit.validation.exact import Atoms

__all__ = ["BatteryModel", "battery"]

_LOG_2_PI = math.log(2 * math.pi)
_KINDS = {"continuous", "line", "posterior", "series", "finite", "mixed"}


@dataclass(frozen=True, eq=False)
class BatteryModel:
    """A target of which everything is known.

    Parameters
    ----------
    name : str
    summary : str
        What it is, and which mistakes it shows.
    target : Target or FeynmanKac
        A Target has ``sample_exact``.
    log_evidence : float
        Log of the integral of the unnormalised density, or of the total mass.
    dim : int
        Length of a position; 0 where it is no vector.
    atoms : Atoms, optional
        The unnormalised measure of a finite model, state by state.
    sample_exact : callable (key) -> x, optional
        One exact draw of a particle at the last time of a Feynman-Kac model.

    Examples
    --------
    >>> import math
    >>> from bayeskit.validation import battery
    >>> model = battery()["hidden_markov"]
    >>> print(model.summary)
    two hidden states, three observations; masses of the last state
    >>> model.kind, math.exp(model.log_evidence), float(model.atoms.mass.sum())
    ('finite', 0.5205, 0.5205)
    """

    name: str
    summary: str
    target: Any
    log_evidence: float
    dim: int
    atoms: Atoms | None = None
    sample_exact: Callable | None = None

    @property
    def kind(self) -> str:
        """Return the kind of model, one of those that :func:`battery` explains."""
        if self.atoms is not None:
            return "finite"
        if isinstance(self.target, FeynmanKac):
            return "series"
        if self.dim == 0:
            return "mixed"
        if self.target.has_prior:
            return "posterior"
        return "line" if self.dim == 1 else "continuous"

    def __repr__(self) -> str:
        return f"BatteryModel({self.name}: {self.summary})"


def battery(kind: str | None = None) -> dict[str, BatteryModel]:
    """Return the models that the validator ships, by name.

    Parameters
    ----------
    kind : str, optional
        ``"continuous"``, densities in two or three dimensions, on which kernels are validated
        by default; ``"line"``, for ``level="quadrature"``; ``"posterior"``, with prior,
        likelihood and evidence; ``"series"``, for composed blocks; ``"finite"``, with all
        masses; ``"mixed"``, with discrete and real parts, for steps. Default: all of them.

    Returns
    -------
    dict of str to BatteryModel
        The same objects at every call, so that compiled programs are shared.

    Raises
    ------
    ValueError
        For another kind.

    Examples
    --------
    >>> sorted(battery("finite"))
    ['binary_field', 'hidden_markov', 'ring', 'tempered', 'two_models']
    >>> sorted(battery("posterior"))
    ['beta_binomial', 'regression', 'simplex']
    >>> sorted(battery("line"))
    ['half_line', 'skewed_1d', 'two_modes_1d']
    >>> battery()["banana"].dim
    2
    """
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"kind must be one of {sorted(_KINDS)} or None, got {kind!r}")
    models = _all_models()
    return {name: model for name, model in models.items() if kind in (None, model.kind)}


@functools.cache
def _all_models() -> dict[str, BatteryModel]:
    models = (
        _skewed(),
        _correlated_normal(),
        _banana(),
        _two_modes(),
        _student_t(),
        _funnel(),
        _transformed(),
        _truncated(),
        _skewed_1d(),
        _two_modes_1d(),
        _half_line(),
        _posterior(beta_binomial, 1),
        _posterior(simplex, 2),
        _posterior(regression, 2),
        _linear_gaussian(),
        _mixed(),
        _ring(),
        _tempered(),
        _binary_field(),
        _two_models(),
        _hidden_markov(),
    )
    return {model.name: model for model in models}


def _skewed() -> BatteryModel:
    # x0 = log G(2) leans to the left, x1 = 1 - 2 log G(1) to the right.
    def log_density(x):
        left, right = x[0], 0.5 * (1.0 - x[1])
        return 2.0 * left - jnp.exp(left) + right - jnp.exp(right)

    def sample(key):
        first, second = random.split(key)
        right = 1.0 - 2.0 * log_gamma_draw(second, 1)
        return jnp.stack([log_gamma_draw(first, 2), right])

    return _continuous(
        "skewed",
        "log-gamma coordinates with tails on either side",
        log_density,
        sample,
        math.log(2.0),
        2,
    )


def _correlated_normal() -> BatteryModel:
    mean, scale = np.array([1.0, -2.0, 3.0]), np.array([0.3, 1.0, 4.0])
    correlation = np.array([[1.0, 0.7, -0.4], [0.7, 1.0, 0.2], [-0.4, 0.2, 1.0]])
    factor = scale[:, None] * np.linalg.cholesky(correlation)
    precision = np.linalg.inv(factor @ factor.T)

    def log_density(x):
        centred = x - mean.astype(x.dtype)
        return -0.5 * centred @ (precision.astype(x.dtype) @ centred)

    def sample(key):
        noise = random.normal(key, (3,))
        return mean.astype(noise.dtype) + factor.astype(noise.dtype) @ noise

    log_evidence = 1.5 * _LOG_2_PI + float(np.log(np.diag(factor)).sum())
    return _continuous(
        "correlated_normal",
        "normal, scales 0.3 to 4, means not zero",
        log_density,
        sample,
        log_evidence,
        3,
    )


def _banana() -> BatteryModel:
    def log_density(x):
        return -0.5 * (x[0] - 0.5) ** 2 - 2.0 * (x[1] - 0.5 * x[0] ** 2) ** 2

    def sample(key):
        noise = random.normal(key, (2,))
        first = 0.5 + noise[0]
        return jnp.stack([first, 0.5 * first**2 + 0.5 * noise[1]])

    return _continuous(
        "banana",
        "x1 follows the square of x0",
        log_density,
        sample,
        _LOG_2_PI - math.log(2.0),
        2,
    )


def _two_modes() -> BatteryModel:
    centre = np.array([[-1.5, 0.0], [2.0, 1.0]])
    scale, weight = np.array([0.6, 1.0]), np.array([0.7, 0.3])
    log_height = np.log(weight) - 2.0 * np.log(scale) - _LOG_2_PI

    def log_density(x):
        centred = (x - centre.astype(x.dtype)) / scale.astype(x.dtype)[:, None]
        squares = jnp.sum(centred**2, axis=1)
        return jax.nn.logsumexp(log_height.astype(x.dtype) - 0.5 * squares)

    def sample(key):
        mode_key, noise_key = random.split(key)
        noise = random.normal(noise_key, (2,))
        first = random.uniform(mode_key) < weight[0]
        here = jnp.where(first, centre[0], centre[1]).astype(noise.dtype)
        return here + jnp.where(first, scale[0], scale[1]).astype(noise.dtype) * noise

    return _continuous(
        "two_modes",
        "modes of weight 0.7 and 0.3 and different width",
        log_density,
        sample,
        0.0,
        2,
    )


def _student_t() -> BatteryModel:
    nu, centre = 5, np.array([2.0, -1.0])
    factor = np.array([[1.0, 0.0], [1.0, 2.0]])
    inverse = np.linalg.inv(factor)

    def log_density(x):
        z = inverse.astype(x.dtype) @ (x - centre.astype(x.dtype))
        return -0.5 * (nu + 2) * jnp.log1p(jnp.sum(z**2) / nu)

    def sample(key):
        noise_key, scale_key = random.split(key)
        noise = random.normal(noise_key, (2,))
        # A chi-square with whole degrees of freedom is a sum of squares of normals.
        z = noise / jnp.sqrt(jnp.mean(random.normal(scale_key, (nu,)) ** 2))
        return centre.astype(z.dtype) + factor.astype(z.dtype) @ z

    log_evidence = (
        math.lgamma(nu / 2)
        - math.lgamma((nu + 2) / 2)
        + math.log(nu * math.pi)
        + math.log(np.linalg.det(factor))
    )
    return _continuous(
        "student_t",
        "correlated Student-t with 5 degrees of freedom",
        log_density,
        sample,
        log_evidence,
        2,
    )


def _funnel() -> BatteryModel:
    def log_density(x):
        log_variance, centred = x[0], x[1] - 1.0
        inner = log_variance + centred**2 * jnp.exp(-log_variance)
        return -0.5 * (log_variance - 0.5) ** 2 - 0.5 * inner

    def sample(key):
        noise = random.normal(key, (2,))
        log_variance = 0.5 + noise[0]
        return jnp.stack([log_variance, 1.0 + jnp.exp(0.5 * log_variance) * noise[1]])

    return _continuous(
        "funnel", "x0 is the log variance of x1", log_density, sample, _LOG_2_PI, 2
    )


def _transformed() -> BatteryModel:
    # x0 = log of a half-normal variable of scale 2, x1 = logit of a Beta(2, 5) variable;
    # the terms x0 and one log-sigmoid of either sign are their Jacobians.
    def log_density(x):
        half_normal = -jnp.exp(2.0 * x[0]) / 8.0 + x[0]
        beta = 2.0 * jax.nn.log_sigmoid(x[1]) + 5.0 * jax.nn.log_sigmoid(-x[1])
        return half_normal + beta

    def sample(key):
        first, second, third = random.split(key, 3)
        half_normal = jnp.log(2.0 * jnp.abs(random.normal(first)))
        logit = log_gamma_draw(second, 2) - log_gamma_draw(third, 5)
        return jnp.stack([half_normal, logit])

    log_evidence = (
        0.5 * math.log(2.0 * math.pi) + math.lgamma(2) + math.lgamma(5) - math.lgamma(7)
    )
    return _continuous(
        "transformed",
        "log half-normal and logit beta, with their Jacobians",
        log_density,
        sample,
        log_evidence,
        2,
    )


def _truncated() -> BatteryModel:
    below = 0.5 * math.erfc(0.5 / math.sqrt(2.0))

    def log_density(x):
        inside = -0.5 * (x[0] - 0.5) ** 2 - 2.0 * (x[1] - x[0]) ** 2
        return jnp.where(x[0] >= 0.0, inside, -jnp.inf)

    def sample(key):
        first, second = random.split(key)
        level = below + (1.0 - below) * random.uniform(first)
        position = jnp.maximum(0.5 + jax.scipy.special.ndtri(level), 0.0)
        return jnp.stack([position, position + 0.5 * random.normal(second)])

    log_evidence = math.log(1.0 - below) + _LOG_2_PI - math.log(2.0)
    return _continuous(
        "truncated",
        "density zero for x0 < 0, positive at the edge",
        log_density,
        sample,
        log_evidence,
        2,
    )


# ---------------------------------------------------------------- on the line


def _skewed_1d() -> BatteryModel:
    return _continuous(
        "skewed_1d",
        "the logarithm of a gamma variable of shape 2",
        lambda x: 2.0 * x[0] - jnp.exp(x[0]),
        lambda key: log_gamma_draw(key, 2)[None],
        0.0,
        1,
    )


def _two_modes_1d() -> BatteryModel:
    centre, scale, weight = np.array([-1.5, 2.0]), np.array([0.6, 1.0]), np.array([0.7, 0.3])
    log_height = np.log(weight / scale) - 0.5 * _LOG_2_PI

    def log_density(x):
        z = (x - centre.astype(x.dtype)) / scale.astype(x.dtype)
        return jax.nn.logsumexp(log_height.astype(x.dtype) - 0.5 * z**2)

    def sample(key):
        mode_key, noise_key = random.split(key)
        noise = random.normal(noise_key, (1,))
        first = random.uniform(mode_key) < weight[0]
        return jnp.where(first, centre[0] + scale[0] * noise, centre[1] + scale[1] * noise)

    return _continuous(
        "two_modes_1d",
        "modes of weight 0.7 and 0.3 and different width on the line",
        log_density,
        sample,
        0.0,
        1,
    )


def _half_line() -> BatteryModel:
    below = 0.5 * math.erfc(0.5 / math.sqrt(2.0))

    def sample(key):
        level = below + (1.0 - below) * random.uniform(key, (1,))
        return jnp.maximum(0.5 + jax.scipy.special.ndtri(level), 0.0)

    return _continuous(
        "half_line",
        "density zero for x < 0, positive at the edge",
        lambda x: jnp.where(x[0] >= 0.0, -0.5 * (x[0] - 0.5) ** 2, -jnp.inf),
        sample,
        math.log(1.0 - below) + 0.5 * _LOG_2_PI,
        1,
    )


def _continuous(
    name: str,
    summary: str,
    log_density: Callable,
    sample: Callable,
    log_evidence: float,
    dim: int,
) -> BatteryModel:
    target = Target(log_density=log_density, sample_exact=sample, name=name)
    return BatteryModel(name, summary, target, log_evidence, dim)


# ---------------------------------------------------------------- series in time


def _linear_gaussian() -> BatteryModel:
    r"""x_0 ~ N(0.5, 1.2²), x_t = 0.3 + 0.8 x_{t-1} + 0.7 ε_t, y_t = x_t + 0.9 η_t."""
    observations = np.array([1.4, -0.2, 2.1])
    mean, variance, log_evidence = 0.5, 1.2**2, 0.0
    for t, y in enumerate(observations):
        if t:
            mean, variance = 0.3 + 0.8 * mean, 0.8**2 * variance + 0.7**2
        # One step of the Kalman filter.
        spread = variance + 0.9**2
        log_evidence -= 0.5 * (_LOG_2_PI + math.log(spread) + (y - mean) ** 2 / spread)
        gain = variance / spread
        mean, variance = mean + gain * (y - mean), (1.0 - gain) * variance

    def log_g(t, previous, x):
        z = (jnp.asarray(observations, x.dtype)[t] - x) / 0.9
        return -0.5 * z**2 - math.log(0.9) - 0.5 * _LOG_2_PI

    model = FeynmanKac(
        initial=lambda key: 0.5 + 1.2 * random.normal(key),
        log_g0=lambda x: log_g(0, None, x),
        kernel=lambda key, t, x: 0.3 + 0.8 * x + 0.7 * random.normal(key),
        log_g=log_g,
        num_steps=len(observations),
        name="linear_gaussian",
    )
    return BatteryModel(
        "linear_gaussian",
        "autoregression with normal noise, three observations; exact draws of the last state",
        model,
        log_evidence,
        1,
        sample_exact=lambda key: mean + math.sqrt(variance) * random.normal(key),
    )


def _posterior(build: Callable, dim: int) -> BatteryModel:
    target, log_evidence = build()
    summary = str(build.__doc__).rstrip(".")
    return BatteryModel(target.name, summary, target, log_evidence, dim)


def _mixed() -> BatteryModel:
    r"""Return k in {0, 1, 2} with masses p, x given k ~ N(m_k, s_k²)."""
    mass, mean = np.array([0.5, 0.3, 0.2]), np.array([-1.0, 0.5, 3.0])
    scale = np.array([0.5, 1.0, 2.0])

    def log_density(state):
        k, x = state["k"], state["x"]
        z = (x - jnp.asarray(mean, x.dtype)[k]) / jnp.asarray(scale, x.dtype)[k]
        return -0.5 * z**2 + _table(np.log(mass / scale))[k]

    def sample(key):
        first, second = random.split(key)
        k = random.categorical(first, _table(np.log(mass)))
        return {"k": k, "x": _table(mean)[k] + _table(scale)[k] * random.normal(second)}

    target = Target(
        log_density=log_density, sample_exact=sample, has_gradient=False, name="mixed"
    )
    summary = "a component and a number: discrete and continuous at once"
    return BatteryModel("mixed", summary, target, 0.5 * _LOG_2_PI, 0, sample_exact=sample)


# ---------------------------------------------------------------- finite spaces


def _table(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.result_type(float))


def _ring() -> BatteryModel:
    mass = np.array([0.34, 0.85, 0.51])
    target = Target(
        log_density=lambda x: _table(np.log(mass))[x],
        sample_exact=lambda key: random.categorical(key, _table(np.log(mass))),
        has_gradient=False,
        name="ring",
    )
    atoms = Atoms(np.arange(3, dtype=np.int32), mass)
    summary = "three states of unequal mass"
    return BatteryModel("ring", summary, target, math.log(mass.sum()), 0, atoms)


def _finite(name: str, summary: str, states: np.ndarray, mass: np.ndarray) -> BatteryModel:
    """Return a model on listed states, whose target looks its mass up by their place."""
    flat = states.reshape(len(states), -1)

    def place(x):
        return jnp.argmax(jnp.all(jnp.asarray(flat) == jnp.ravel(x), axis=1))

    target = Target(
        log_density=lambda x: _table(np.log(mass))[place(x)],
        sample_exact=lambda key: jnp.asarray(states)[
            random.categorical(key, _table(np.log(mass)))
        ],
        has_gradient=False,
        name=name,
    )
    return BatteryModel(name, summary, target, math.log(mass.sum()), 0, Atoms(states, mass))


def _binary_field() -> BatteryModel:
    bits = np.array(list(itertools.product([0, 1], repeat=3)), np.int32)
    field, coupling = np.array([0.4, -0.7, 0.2]), np.array([0.9, -0.5, 0.3])
    pairs = bits[:, [0, 1, 2]] * bits[:, [1, 2, 0]]
    mass = np.exp(bits @ field + pairs @ coupling)
    return _finite("binary_field", "a Markov random field of three bits", bits, mass)


def _two_models() -> BatteryModel:
    # A model without a parameter against one whose parameter has three values: odds 0.3 to 0.7.
    states = np.array([[0, 0], [1, 0], [1, 1], [1, 2]], np.int32)
    mass = np.array([0.3, 0.7 * 0.2, 0.7 * 0.5, 0.7 * 0.3])
    summary = "a model without a parameter, and one with: moves between dimensions"
    return _finite("two_models", summary, states, mass)


def _tempered() -> BatteryModel:
    prior = np.array([0.5, 0.3, 0.2])
    log_likelihood = np.array([-1.2, 0.7, 0.1])
    mass = prior * np.exp(log_likelihood)
    target = Target(
        log_prior=lambda x: _table(np.log(prior))[x],
        log_likelihood=lambda x: _table(log_likelihood)[x],
        sample_prior=lambda key: random.categorical(key, _table(np.log(prior))),
        sample_exact=lambda key: random.categorical(key, _table(np.log(mass))),
        has_gradient=False,
        name="tempered",
    )
    atoms = Atoms(np.arange(3, dtype=np.int32), mass)
    summary = "three states, prior and likelihood disagree"
    return BatteryModel("tempered", summary, target, math.log(mass.sum()), 0, atoms)


def _hidden_markov() -> BatteryModel:
    initial = np.array([0.35, 0.65])
    transition = np.array([[0.8, 0.2], [0.45, 0.55]])
    potential = np.array([[0.3, 1.1], [0.9, 0.2], [1.4, 0.5]])
    model = FeynmanKac(
        initial=lambda key: random.categorical(key, _table(np.log(initial))),
        log_g0=lambda x: _table(np.log(potential))[0, x],
        kernel=lambda key, t, x: random.categorical(key, _table(np.log(transition))[x]),
        log_g=lambda t, previous, x: _table(np.log(potential))[t, x],
        num_steps=3,
        name="hidden_markov",
    )
    mass = initial * potential[0]
    for row in potential[1:]:
        mass = (mass @ transition) * row
    atoms = Atoms(np.arange(2, dtype=np.int32), mass)
    summary = "two hidden states, three observations; masses of the last state"
    return BatteryModel("hidden_markov", summary, model, math.log(mass.sum()), 0, atoms)
