"""Move particles to nearly equal weights, differentiably."""

from __future__ import annotations

from dataclasses import dataclass

from bayeskit import accel
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.offspring import Resampling
from bayeskit.inference.law import CONSISTENT

__all__ = ["ResampleTransport", "resample_transport"]


@dataclass(frozen=True, eq=False, repr=False)
class ResampleTransport(Resampling):
    """Move particles to nearly equal weights. See :func:`resample_transport`."""

    epsilon: float
    num_iterations: int
    ess_below: float | None = None

    @property
    def name(self):
        return f"resample_transport(epsilon={self.epsilon:g}{self.options()})"

    def resampled(self, key, population):
        if population.lineage is not None or population.ancestors is not None:
            raise ValueError(
                f"{self.name} mixes all particles, so that none descends from a single one: "
                "spawn with track_lineage=False and keep no history, or choose a resampling "
                "scheme"
            )
        moved = accel.transport(
            population.particles, population.log_weights, self.epsilon, self.num_iterations
        )
        return population._replace(particles=moved.particles, log_weights=moved.log_weights)

    def arrow(self, law):
        return law.then(law.measure, self.name, CONSISTENT)


def resample_transport(epsilon: float = 0.1, num_iterations: int = 100) -> Block:
    r"""Move the particles by entropic optimal transport in place of choosing (law L10).

    The weighted mean of the particles is kept exactly; other means are blurred by ``epsilon``,
    and agree only as N grows and ``epsilon`` shrinks. There is no randomness, and the evidence
    of a filter has a gradient in all its parameters. See
    :func:`bayeskit.accel.transport`, also for the cost, which grows with N².

    There is no ``rate``: it would have to be given back particle by particle, and what comes
    out is a mixture of many, each of which was chosen at another rate. Let the potential of a
    step look ahead instead, as that of a :func:`twisted_model` does.

    Parameters
    ----------
    epsilon : float > 0
        Strength of the blur, relative to the squared spread of the particles.
    num_iterations : int >= 1
        Sinkhorn iterations. A smaller ``epsilon`` needs more of them; until they have converged
        the weights stay uneven, and the mean is kept all the same.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        For ``epsilon`` not above 0 or ``num_iterations`` below 1; when the block runs, for a
        population with a lineage or a history.
    TypeError
        When the block runs, for particles that are not real numbers.

    References
    ----------
    Corenflos, Thornton, Deligiannidis & Doucet (2021), *Differentiable particle filtering via
    entropy-regularized optimal transport*.

    Examples
    --------
    Particles move towards the heavy one until their equal mean is what the weighted one was:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> population = bi.Population(
    ...     jnp.array([0.0, 4.0]), jnp.log(jnp.array([0.75, 0.25])), log_evidence=jnp.zeros(())
    ... )
    >>> moved, _ = bi.resample_transport().run(None, population)
    >>> [round(float(p.expectation(lambda x: x)), 3) for p in (population, moved)]
    [1.0, 1.0]
    >>> moved.particles.round(3).tolist()
    [0.0, 2.0]
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon!r}")
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, got {num_iterations!r}")
    return ResampleTransport(float(epsilon), int(num_iterations))
