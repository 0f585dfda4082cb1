"""What a network is trained for: priors, data, and what is known before any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.fitted_parts import fitted_parts
from bayeskit.models.distribution_transformer.linearisation import (
    Linearisation,
    linearised_update,
)
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture, extended
from bayeskit.models.distribution_transformer.simulators import BaseSimulator
from bayeskit.models.distribution_transformer.small_matrices import (
    log_diagonal,
    multiply_vector,
    solve_lower,
)
from bayeskit.models.distribution_transformer.splitting import (
    SPREAD,
    Places,
    places,
    put_in_place,
    unit_parts,
)
from bayeskit.models.distribution_transformer.warm_start import (
    Tilted,
    grid,
    linear_gaussian_update,
    tilt,
)

__all__ = ["Problems", "Start", "Task"]

# Share of problems without data where the network also has to know the prior itself.
_SHARE_WITHOUT_DATA = 0.125
# Where the posterior is compared with what the network starts from, in standard deviations of
# each component along each axis.
_PROBES = (-2.5, -1.0, 1.0, 2.5)
# Least pivot of the covariance of a part, in units of its component.
_LEAST_PIVOT = {1: 0.02, 2: 0.1}


# Of parts that are not fitted to anything: close enough to be the Gaussian that they replace.
_NARROW = 0.2


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
        What the network changes, of K components.
    parents : (batch, K) array of int
        Component of the prior that each component of ``base`` comes from.
    residuals : (batch, K, 4 d) array
        Where ``base`` is wrong: log of the posterior over it at -2.5, -1, 1 and 2.5 standard
        deviations of each component along each axis; 0 where that is not known.
    log_evidence : (batch,) array
        Of the data, as far as updated components are Gaussian.
    has_data : (batch,) array of bool
    """

    prior: Mixture
    base: Mixture
    parents: jax.Array
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
        Of the posterior, where it is not exactly a mixture of as many as the prior has.
    warm_start : bool
        Whether the network starts at the update of each component on its own.
    linearises : bool
        Whether that update is by a statistical linearisation of the simulator.
    """

    meta_prior: Any
    simulator: BaseSimulator
    support: Any
    num_components: int
    warm_start: bool = True
    linearises: bool = False

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
        """How the network starts: ``exact``, ``tilted``, ``linearised`` or ``prior``."""
        if not self.warm_start:
            return "prior"
        if self.linearises:
            return "linearised"
        if self.meta_prior.is_mixture and self.is_linear:
            return "exact"
        if self.simulator.has_log_likelihood or not self.meta_prior.is_mixture:
            return "tilted"
        return "prior"

    @property
    def has_evidence(self) -> bool:
        """Whether what the network starts from knows the evidence of the data."""
        return self.kind in ("exact", "tilted")

    @property
    def splits(self) -> bool:
        """Whether posteriors are no mixtures of as many components as their priors have."""
        return not (self.meta_prior.is_mixture and self.is_linear)

    def num_parts(self, num_components: int) -> int:
        """Number of components of a posterior whose prior has ``num_components``."""
        return max(num_components, self.num_components) if self.splits else num_components

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

    def start(self, problems: Problems, linear: Linearisation | None = None) -> Start:
        """Return the prior and the mixture that the network is to change.

        ``linear`` is what a task that linearises starts from.
        """
        return jax.vmap(lambda one: self._start_one(one, linear))(problems)

    def _start_one(self, problem: Problems, linear: Linearisation | None) -> Start:
        prior = self.meta_prior.as_mixture(problem.prior)
        has_data = jnp.zeros((), bool)
        for mask in problem.masks.values():
            has_data = has_data | mask.any()
        is_mixture = self.meta_prior.is_mixture
        k, dtype = len(prior.means), prior.means.dtype
        if self.kind == "prior":
            nothing = jnp.zeros((k, 0), dtype)
            tilted = Tilted(jnp.zeros(k, dtype), prior.means, prior.factors, nothing)
        else:
            update = self._update(linear)
            tilted = jax.vmap(lambda mean, factor: update(problem, mean, factor))(*prior[1:])
            tilted = _repaired(tilted, prior)
        terms = prior.log_weights + tilted.log_evidence
        log_evidence = jax.nn.logsumexp(terms)
        base = Mixture(terms - log_evidence, tilted.mean, tilted.factor)
        num = self.num_parts(k)
        parents = jnp.minimum(jnp.arange(num), k - 1)
        if self.splits:
            where = places(base.log_weights, num)
            spread = _NARROW if self.kind == "linearised" else SPREAD
            base = put_in_place(where, _parts(where, tilted, spread), base)
            parents = (
                jnp.where(has_data, where.parents, parents) if is_mixture else where.parents
            )
        if is_mixture:
            # Without data nothing may change, not even by rounding.
            base = jax.tree.map(
                lambda a, b: jnp.where(has_data, a, b), base, extended(prior, num)
            )
        residuals = jnp.zeros((num, len(_PROBES) * self.dim), dtype)
        if self.kind == "tilted":
            residuals = self._residuals(problem, base, log_evidence)
        return Start(prior, base, parents, residuals, log_evidence, has_data)

    def _update(self, linear: Linearisation | None) -> Callable[..., Tilted]:
        """Return the update (problem, mean, factor) of one component."""
        if self.kind == "exact":
            return self._exact_update
        if self.kind == "tilted":
            return self._tilted_update
        assert linear is not None
        return lambda problem, mean, factor: linearised_update(
            linear, problem.rows, problem.masks, mean, factor
        )

    def _residuals(
        self, problem: Problems, base: Mixture, log_evidence: jax.Array
    ) -> jax.Array:
        """Return log of the posterior over ``base`` at points around each component."""
        units = jnp.concatenate(
            [p * jnp.eye(self.dim, dtype=base.means.dtype) for p in _PROBES]
        )
        points = base.means[:, None] + multiply_vector(base.factors[:, None], units)
        log_target = self.log_joint if self.simulator.has_log_likelihood else self._log_prior
        log_p = jax.vmap(jax.vmap(lambda u: log_target(problem, u)))(points)
        found = log_p - log_evidence - mixture_arrays.log_density(base, points)
        is_known = (base.log_weights > -jnp.inf)[:, None] & ~jnp.isnan(found)
        return jnp.where(is_known, found, 0.0)

    def _log_prior(self, problem: Problems, u: jax.Array) -> jax.Array:
        return self.meta_prior.log_density(problem.prior, u)

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


def _parts(where: Places, tilted: Tilted, spread: float) -> Mixture:
    """Return the parts of updated components, in their units."""
    d, dtype = tilted.mean.shape[-1], tilted.mean.dtype
    units = unit_parts(where, d, dtype, spread)
    if not tilted.shares.shape[-1]:
        return units
    return fitted_parts(
        where, units, jnp.asarray(grid(d), dtype), tilted.shares, _LEAST_PIVOT[d]
    )


def _repaired(tilted: Tilted, prior: Mixture) -> Tilted:
    """Put the prior's component where an update came to nothing."""
    leaves = [leaf.reshape(len(prior.means), -1) for leaf in tilted]
    is_fine = jnp.stack([jnp.isfinite(leaf).all(axis=-1) for leaf in leaves]).all(axis=0)
    lowest = jnp.asarray(-1e30, tilted.log_evidence.dtype)
    num_points, d = tilted.shares.shape[-1], tilted.mean.shape[-1]
    squares = (jnp.asarray(grid(d)[:num_points], tilted.mean.dtype) ** 2).sum(axis=-1)
    return Tilted(
        jnp.where(is_fine, tilted.log_evidence, lowest),
        jnp.where(is_fine[:, None], tilted.mean, prior.means),
        jnp.where(is_fine[:, None, None], tilted.factor, prior.factors),
        jnp.where(is_fine[:, None], tilted.shares, jax.nn.softmax(-0.5 * squares)),
    )
