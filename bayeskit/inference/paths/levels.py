"""The path of nested sampling: the prior above rising levels of the likelihood."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.errors import ImproperPriorError
from bayeskit.inference.law import Measure, Tagged
from bayeskit.inference.measure import Path, Target, TemperingStage, prior_sampler

__all__ = ["LevelDensity", "LevelPath"]


class LevelDensity(NamedTuple):
    """The log density of the prior above a level of the log-likelihood."""

    target: Target
    level: jax.Array

    def components(self, x: Any) -> jax.Array:
        """Return log prior and log-likelihood at ``x``."""
        return self.target.components(x)

    def combine(self, components: jax.Array) -> jax.Array:
        """Return the log density that belongs to cached components; NaN counts as -inf."""
        log_prior, log_likelihood = components[..., 0], components[..., 1]
        inside = (log_likelihood > self.level) & ~jnp.isnan(log_prior)
        return jnp.where(inside, log_prior, -jnp.inf)

    def __call__(self, x: Any) -> jax.Array:
        return self.combine(self.components(x))

    def components_and_gradient(self, x: Any) -> tuple[jax.Array, jax.Array]:
        """Return the components and the gradient of the log prior."""
        components, pull_back = jax.vjp(self.target.components, x)
        (gradient,) = pull_back(jnp.asarray([1.0, 0.0], components.dtype))
        return components, gradient


class LevelPath(Path):
    r"""The prior above levels, :math:`p(x)\,1\{\log L(x) > \ell\}`, with what it leaves behind.

    Rising from level :math:`\ell_{t-1}` to :math:`\ell_t` cuts off a shell. What is cut off is
    done: it keeps its likelihood as its weight. The path is that of

    .. math::
        \mu_t(dx) = p(x)\,L(x)\,1\{\log L(x) \le \ell_t\}\,dx
        + p(x)\,1\{\log L(x) > \ell_t\}\,dx ,

    from the prior at level :math:`-\infty` to prior times likelihood at :math:`+\infty`.

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior
    negligible : float
        Levels that are chosen end where the prior that is left would add less than this to the
        evidence, as a fraction.

    Raises
    ------
    ImproperPriorError
        If the target has no prior to start from.
    ValueError
        If ``negligible`` is not a fraction.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum(x**2) - 0.919,
    ...     log_likelihood=lambda x: -2.0 * jnp.sum((x - 1) ** 2),
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> path = bi.LevelPath(target)
    >>> block = bi.nested_sampling_at_levels(path, bi.RandomWalk(), 100, [-8.0, -2.0, -0.5])
    >>> str(block.law.kind)
    'L2 properly weighted'
    """

    coordinate = "level"
    begin = -math.inf
    end = math.inf

    def __init__(self, target: Target, negligible: float = 1e-3):
        if not target.has_prior or target.sample_prior is None:
            raise ImproperPriorError(
                f"the target {target.name} needs log_prior, log_likelihood and sample_prior: "
                "nested sampling starts from draws of the prior"
            )
        if not 0 < negligible < 1:
            raise ValueError(f"negligible must be a fraction in (0, 1), got {negligible!r}")
        self.target = target
        self.negligible = negligible
        self.measure = Measure(f"{target.name}_shells", owner=self)
        self.increment = Tagged(
            self._increment, self.measure.at("t-1"), self.measure.at("t"), "likelihood of shell"
        )

    @staticmethod
    def _increment(stage: TemperingStage, particle: Any) -> jax.Array:
        log_likelihood = particle.components[1]
        in_shell = (log_likelihood > stage.previous) & (log_likelihood <= stage.current)
        # Below the level before it has its likelihood already, above the new one not yet. A
        # prior draw of likelihood zero is in the first shell, and worth nothing.
        never_alive = (stage.previous == -jnp.inf) & ~(log_likelihood > -jnp.inf)
        outside = jnp.where(never_alive, log_likelihood, 0.0)
        return jnp.where(in_shell, log_likelihood, outside)

    @property
    def initial(self) -> Tagged:
        """Sampler of one particle: a prior draw with the components of its density."""
        return prior_sampler(self.target, self.measure.at("0"))

    def at(self, stage: TemperingStage) -> LevelDensity:
        """Return the log density of the prior above the current level."""
        return LevelDensity(self.target, stage.current)

    def is_alive(self, stage: TemperingStage, particles: Any) -> jax.Array:
        """Return which particles, with leading axis, are above the current level."""
        return particles.components[:, 1] > stage.current

    def choose(self, population: Any, fraction: float) -> jax.Array:
        r"""Return the level that a fraction of the prior that is left is above.

        It is :math:`+\infty`, the end, where no particle is above it or where the rest of the
        prior would add little even at the highest likelihood found there.
        """
        stage = population.stage
        log_likelihood = population.particles.components[:, 1]
        log_weights = population.log_weights
        alive = self.is_alive(stage, population.particles) & (log_weights > -jnp.inf)
        live = jnp.where(alive, log_weights, -jnp.inf)
        order = jnp.argsort(jnp.where(alive, log_likelihood, -jnp.inf))
        mass = jnp.cumsum(jax.nn.softmax(live)[order])
        high_enough = alive[order] & (mass >= (1.0 - fraction) * mass[-1])
        level = jnp.min(jnp.where(high_enough, log_likelihood[order], jnp.inf))
        highest = jnp.max(jnp.where(alive, log_likelihood, -jnp.inf))
        done = jax.nn.logsumexp(jnp.where(alive, -jnp.inf, log_weights))
        rest = highest + jax.nn.logsumexp(live)
        is_last = (highest <= level) | (rest < math.log(self.negligible) + done)
        return jnp.where(is_last, jnp.inf, level)
