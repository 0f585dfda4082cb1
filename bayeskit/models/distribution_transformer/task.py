"""What a network is trained for: priors, data, and what is known before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.simulators import BaseSimulator
from bayeskit.models.distribution_transformer.small_matrices import (
    log_diagonal,
    multiply_vector,
    solve_lower,
)
from bayeskit.models.distribution_transformer.splitting import split
from bayeskit.models.distribution_transformer.warm_start import (
    NUM_PROBES_PER_AXIS,
    Tilted,
    linear_gaussian_update,
    tilt,
)

__all__ = ["Problems", "Start", "Task"]

# Share of problems without data where the network also has to know the prior itself.
_SHARE_WITHOUT_DATA = 0.125


class Problems(NamedTuple):
    """A batch of priors with their data.

    Attributes
    ----------
    prior : pytree of arrays (batch, ...)
        As the meta-prior draws it.
    rows : dict of str to (batch, n, m) arrays
    masks : dict of str to (batch, n) arrays of bool
        Which rows are there.
    vector : (batch, p) array
        Known numbers of the likelihood, each scaled to [-1, 1].
    """

    prior: Any
    rows: dict[str, jax.Array]
    masks: dict[str, jax.Array]
    vector: jax.Array


class Start(NamedTuple):
    """What is known without training.

    Attributes
    ----------
    prior : Mixture
        Of as many components as the prior has; one for parametric families.
    base : Mixture
        What the network changes.
    residuals : (batch, k, 4 d) array
        Where ``base`` is known to be wrong; see :class:`Tilted`.
    log_evidence : (batch,) array
        Of the data, as far as the components of ``base`` are Gaussian.
    has_data : (batch,) array of bool
    """

    prior: Mixture
    base: Mixture
    residuals: jax.Array
    log_evidence: jax.Array
    has_data: jax.Array


@dataclass(frozen=True)
class Task:
    """A meta-prior and a simulator.

    Parameters
    ----------
    meta_prior, simulator, support
    num_components : int
        Of the posterior, for parametric families.
    warm_start : bool
        Whether the network starts at the update of each component on its own.
    """

    meta_prior: Any
    simulator: BaseSimulator
    support: Any
    num_components: int
    warm_start: bool = True

    @property
    def dim(self) -> int:
        """Dimension of the latent, unconstrained."""
        return self.support.dim

    @property
    def is_linear(self) -> bool:
        """Whether the likelihood is linear and Gaussian in the coordinates of the mixture."""
        has_matrix = type(self.simulator).linear_part is not BaseSimulator.linear_part
        return has_matrix and bool(getattr(self.support, "is_real", False))

    @property
    def kind(self) -> str:
        """How the network starts: ``"exact"``, ``"tilted"`` or ``"prior"``."""
        if not self.warm_start:
            return "prior"
        if self.meta_prior.is_mixture and self.is_linear:
            return "exact"
        if self.simulator.has_log_likelihood or not self.meta_prior.is_mixture:
            return "tilted"
        return "prior"

    # ------------------------------------------------------------ simulation

    def draw(self, key: jax.Array, batch: int) -> tuple[Problems, jax.Array]:
        """Return problems and the latents (batch, d), unconstrained, that made their data."""
        keys = jax.random.split(key, 6)
        prior = self.meta_prior.draw(keys[0], batch)
        u = self.meta_prior.draw_latent(keys[1], prior)
        num_parameters = len(self.simulator.parameters.ranges)
        vector = jax.random.uniform(keys[2], (batch, num_parameters), u.dtype, -1.0, 1.0)
        each = jax.random.split(keys[3], batch)
        rows = jax.vmap(self.simulator.simulate_rows)(each, self.support.constrain(u), vector)
        masks = {}
        of_source = jax.random.split(keys[4], len(rows))
        for part, (name, values) in zip(of_source, rows.items(), strict=True):
            low, high = self.simulator.num_observations[name]
            count = jax.random.randint(part, (batch, 1), low, high + 1)
            masks[name] = jnp.arange(values.shape[1]) < count
        if not self.meta_prior.is_mixture:
            keep = jax.random.uniform(keys[5], (batch, 1)) >= _SHARE_WITHOUT_DATA
            masks = {name: mask & keep for name, mask in masks.items()}
        return Problems(prior, rows, masks, vector), u

    # ------------------------------------------------------------ densities

    def log_likelihood(self, problem: Problems, u: jax.Array) -> jax.Array:
        """Return the log likelihood of one problem at one u (d,)."""
        x = self.support.constrain(u)
        return self.simulator.log_likelihood_rows(
            problem.rows, problem.masks, x, problem.vector
        )

    def log_joint(self, problem: Problems, u: jax.Array) -> jax.Array:
        """Return log prior plus log likelihood of one problem at one u (d,)."""
        prior = self.meta_prior.log_density(problem.prior, u)
        return prior + self.log_likelihood(problem, u)

    # ------------------------------------------------------------ before training

    def start(self, problems: Problems) -> Start:
        """Return the prior and the mixture that the network is to change."""
        return jax.vmap(self._start_one)(problems)

    def _start_one(self, problem: Problems) -> Start:
        prior = self.meta_prior.as_mixture(problem.prior)
        has_data = jnp.zeros((), bool)
        for mask in problem.masks.values():
            has_data = has_data | mask.any()
        is_mixture = self.meta_prior.is_mixture
        if self.kind == "prior":
            k, d = prior.means.shape
            size = NUM_PROBES_PER_AXIS * d
            residuals = jnp.zeros((k, size), prior.means.dtype)
            tilted = Tilted(
                jnp.zeros(k, residuals.dtype), prior.means, prior.factors, residuals
            )
        else:
            update = self._exact_update if self.kind == "exact" else self._tilted_update
            tilted = jax.vmap(lambda mean, factor: update(problem, mean, factor))(*prior[1:])
            tilted = _repaired(tilted, prior)
        terms = prior.log_weights + tilted.log_evidence
        log_evidence = jax.nn.logsumexp(terms)
        if is_mixture:
            base = Mixture(terms - log_evidence, tilted.mean, tilted.factor)
            # Without data nothing may change, not even by rounding.
            base = jax.tree.map(lambda a, b: jnp.where(has_data, a, b), base, prior)
            residuals = tilted.residuals
        else:
            base = split(tilted.mean[0], tilted.factor[0], self.num_components)
            shape = (self.num_components, tilted.residuals.shape[-1])
            residuals = jnp.broadcast_to(tilted.residuals, shape)
        return Start(prior, base, residuals, log_evidence, has_data)

    def _exact_update(self, problem: Problems, mean: jax.Array, factor: jax.Array) -> Tilted:
        found = self.simulator.linear_part(problem.vector)
        assert found is not None
        matrix, noise = (part.astype(mean.dtype) for part in found)
        (name,) = problem.rows
        mask = problem.masks[name]
        white = solve_lower(noise, problem.rows[name].T).T
        tilted = linear_gaussian_update(mean, factor, solve_lower(noise, matrix), white, mask)
        change_of_units = mask.sum() * log_diagonal(noise).sum()
        return tilted._replace(log_evidence=tilted.log_evidence - change_of_units)

    def _tilted_update(self, problem: Problems, mean: jax.Array, factor: jax.Array) -> Tilted:
        has_likelihood = self.simulator.has_log_likelihood
        own = Mixture(jnp.zeros(1, mean.dtype), mean[None], factor[None])

        def log_likelihood(u: jax.Array) -> jax.Array:
            value = jnp.zeros((), u.dtype)
            if has_likelihood:
                value = self.log_likelihood(problem, u)
            if not self.meta_prior.is_mixture:
                # The component only stands in for the prior.
                value = value + self.meta_prior.log_density(problem.prior, u)
                value = value - mixture_arrays.log_density(own, u)
            return value

        return tilt(log_likelihood, mean, factor)

    def white_rows(self, problem: Problems, origin: jax.Array) -> dict[str, jax.Array]:
        """Return rows of one linear problem with unit noise, less what ``origin`` predicts."""
        found = self.simulator.linear_part(problem.vector)
        assert found is not None
        matrix, noise = (part.astype(origin.dtype) for part in found)
        return {
            name: solve_lower(noise, (rows - multiply_vector(matrix, origin)).T).T
            for name, rows in problem.rows.items()
        }


def _repaired(tilted: Tilted, prior: Mixture) -> Tilted:
    """Put the prior's component where an update came to nothing."""
    leaves = [leaf.reshape(len(prior.means), -1) for leaf in tilted]
    is_fine = jnp.stack([jnp.isfinite(leaf).all(axis=-1) for leaf in leaves]).all(axis=0)
    lowest = jnp.asarray(-1e30, tilted.log_evidence.dtype)
    return Tilted(
        jnp.where(is_fine, tilted.log_evidence, lowest),
        jnp.where(is_fine[:, None], tilted.mean, prior.means),
        jnp.where(is_fine[:, None, None], tilted.factor, prior.factors),
        jnp.where(is_fine[:, None], tilted.residuals, 0.0),
    )
