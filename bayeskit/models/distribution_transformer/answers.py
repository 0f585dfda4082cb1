"""What a trained estimator is asked: posteriors, filters, and how they depend on the prior."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from sklearn.exceptions import NotFittedError

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.models.base import precision_scope
from bayeskit.models.distribution_transformer import programs
from bayeskit.models.distribution_transformer.correcting import check_likelihood, refined
from bayeskit.models.distribution_transformer.door import (
    checked_parameters,
    checked_rows,
    joined,
    padded,
    refuse_more_rows,
)
from bayeskit.models.distribution_transformer.filtering import run_filter
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.given_priors import (
    check_support,
    standing_for,
)
from bayeskit.models.distribution_transformer.mixture_arrays import (
    Mixture,
    extended,
    without_absent,
)
from bayeskit.models.distribution_transformer.ranges import Seen, sound_alarms
from bayeskit.models.distribution_transformer.refine import RefinedBatch, RefinedPosterior
from bayeskit.models.distribution_transformer.sensitivity import derivatives
from bayeskit.models.distribution_transformer.task import Problems

__all__ = ["Answers"]


class Answers:
    """Methods of a trained estimator that leave it as it is."""

    task_: Any
    network_: Any
    weights_: Any
    scaling_: Any
    range_: Any
    row_sizes_: dict[str, int]
    precision: str
    progress: str | bool

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "task_")

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} is not trained yet: call fit first, or load a "
                "saved one"
            )

    def _on_device(self) -> Any:
        raise NotImplementedError

    # ------------------------------------------------------------ posteriors

    def posterior(
        self,
        z: Any,
        *,
        prior: Any,
        parameters: Any = None,
        missing: str = "raise",
        strict: bool = False,
        refine: str | None = None,
        n_draws: int = 4000,
        random_state: Any = None,
    ) -> GaussianMixture | RefinedPosterior | RefinedBatch:
        """Return the posterior of one problem, or of a batch of them.

        Parameters
        ----------
        z : array, or dict of arrays by source
            (n, m) for one data set of n observations of m numbers; (batch, n, m) for several;
            (n,) for m = 1. None, or no rows: the prior is returned.
        prior : GaussianMixture, or dict for parametric families
            One for all problems, or one for each: a batch, or a list of GaussianMixtures. Where
            training was on mixtures, also one NumPyro distribution or frozen one of SciPy's
            common families, a list with one for each coordinate, or what :func:`fit_mixture`
            returned: a mixture stands for it, and refinement uses the prior itself.
        parameters : dict, optional
            Known numbers of the likelihood, one for all problems, or arrays (batch,).
        missing : {"raise", "mask"}
            ``"mask"`` leaves out observations with NaN.
        strict : bool
            Raise, instead of warn, outside of what training has seen.
        refine : {"psis", "smc", "mcmc", "auto"}, optional
            Correct the posterior to the exact one, which needs a log likelihood: by importance
            sampling, by tempered SMC, by Markov chains, or by the first of them that finds no
            reason for doubt. Alarms for what training has not seen are then left to it. SMC
            and chains compile for some seconds at the first call, and say on a line what they
            are at.
        n_draws : int
            Of a refined posterior, at least 100; SMC and chains round up to whole groups.
        random_state : int, numpy random state, JAX key, or None
            Of a refined posterior.

        Returns
        -------
        GaussianMixture, or RefinedPosterior or RefinedBatch with ``refine``
            With a batch axis if anything had one.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        InvalidDataError
            For NaN or infinities, shapes and dimensions that do not fit; with ``strict``, for
            priors and data outside of the range of training.

        Warns
        -----
        OutOfMetaPriorWarning
            With the feature and its range in training.
        PriorFitWarning
            If the mixture that stands for a prior is far from it.
        ConvergenceWarning
            If a refined posterior cannot be trusted yet.
        """
        self._check_fitted()
        if refine is not None:
            check_likelihood(self.task_, f"refine={refine!r}")
        prior, law = standing_for(self.task_, prior, quiet=refine is not None)
        problems, is_batch = self._problems(z, prior, parameters, missing)
        found = self._answered(problems, strict, quiet=refine is not None)
        if refine is not None:
            return refined(
                self.task_,
                self._padded(problems),
                found.mixture,
                law=law,
                method=refine,
                num_draws=n_draws,
                random_state=random_state,
                is_batch=is_batch,
                progress=self.progress,
            )
        mixture: Any = without_absent(found.mixture, self._num_components(problems))
        if not is_batch:
            mixture = Mixture(*(leaf[0] for leaf in mixture))
        return GaussianMixture.of_arrays(mixture, self.task_.support)

    def _problems(
        self, z: Any, prior: Any, parameters: Any, missing: str
    ) -> tuple[Problems, bool]:
        """Return checked problems with a batch axis, and whether the user gave one."""
        self._check_fitted()
        own = self.task_.meta_prior
        arrays, many_priors = own.checked(prior)
        if own.is_mixture:
            check_support(self.task_, prior)
        rows, masks, many_rows = checked_rows(z, self.row_sizes_, missing)
        self.task_.simulator.check_rows(rows, masks)
        if self.task_.simulator.has_fixed_rows:
            refuse_more_rows(rows, self.task_.simulator.num_observations)
        vector, many_vectors = checked_parameters(parameters, self.task_.simulator)
        problems, _ = joined(arrays, rows, masks, vector)
        return problems, many_priors or many_rows or many_vectors

    def _num_components(self, problems: Problems) -> int:
        """Number of components of the priors, absent ones among them."""
        is_mixture = self.task_.meta_prior.is_mixture
        return problems.prior.log_weights.shape[-1] if is_mixture else 1

    def _padded(self, problems: Problems) -> Problems:
        """Return problems of rounded sizes."""
        most = {name: n[1] for name, n in self.task_.simulator.num_observations.items()}
        return padded(problems, most, self.range_.example)

    def _answered(self, problems: Problems, strict: bool, quiet: bool = False) -> Any:
        """Return the answer for a batch, on the host and without padding; sound alarms."""
        batch, k = len(problems.vector), self._num_components(problems)
        full = self._padded(problems)
        if self.task_.meta_prior.is_mixture:
            # One program for priors of one component and of several.
            most = max(k, self.task_.meta_prior.component_range[1])
            full = full._replace(prior=extended(full.prior, most))
        with self._on_device(), precision_scope(self.precision), program_cache():
            full = jax.tree.map(self._in_precision, full)
            found = programs.answer(
                self.task_, self.network_, self.weights_, self.scaling_, full
            )
            found = jax.tree.map(lambda leaf: np.asarray(leaf)[:batch], found)
        masks = {name: mask[:batch] for name, mask in full.masks.items()}
        seen = Seen(found.features, found.units, masks, np.asarray(problems.vector), k)
        if strict or not quiet:
            sound_alarms(self.task_, self.range_, seen, strict=strict, stacklevel=4)
        return found

    def _in_precision(self, leaf: Any) -> Any:
        array = np.asarray(leaf)
        return array.astype(self.precision) if array.dtype.kind == "f" else array

    # ------------------------------------------------------------ filters

    def filter(
        self,
        zs: Any,
        *,
        A: Any,
        Q: Any,
        x0: GaussianMixture,
        c: Any = None,
        parameters: Any = None,
        missing: str = "raise",
        strict: bool = False,
        refine: str | None = None,
        n_particles: int = 500,
        random_state: Any = None,
    ) -> Any:
        r"""Return the posterior of a moving latent at each time, given the data so far.

        .. math:: x_t = A x_{t-1} + c + \epsilon_t, \quad \epsilon_t \sim N(0, Q), \qquad
                  z_t \sim p(z \mid x_t)

        Components are predicted exactly, and each time is one step of the network.

        Parameters
        ----------
        zs : array, or dict of arrays by source
            (time, m), (time,) for m = 1, or (batch, time, m): one observation a time.
        A, Q, c : (d, d), (d, d) and (d,) arrays
            Of the unconstrained latent. Numbers for d = 1.
        x0 : GaussianMixture, or another prior as for :meth:`posterior`
            The law of :math:`x_0`, before the first motion.
        parameters, missing, strict
            As for :meth:`posterior`. Where everything is missing, the posterior is the
            prediction.

        refine : {"particles"}, optional
            A particle filter that proposes for each particle from the posterior that the
            network gives it: exact, whatever the network, with an unbiased evidence. It needs a
            log likelihood, and Q positive definite.
        n_particles : int
        random_state : int, numpy random state, JAX key, or None

        Returns
        -------
        FilterResult, or RefinedFilterResult with ``refine``
            A list of the latter for a batch.

        Notes
        -----
        Time is linear in the number of times, memory too. With the warm start and linear
        Gaussian data this is a bank of Kalman filters, to rounding.
        """
        x0 = self._checked_start(x0)
        if not isinstance(n_particles, int | np.integer) or n_particles < 1:
            raise ValueError(f"n_particles must be a whole number >= 1, got {n_particles!r}")
        return run_filter(
            self,
            zs,
            A,
            Q,
            x0,
            c,
            parameters,
            missing,
            strict,
            refine,
            int(n_particles),
            random_state,
        )

    def _checked_start(self, x0: Any) -> GaussianMixture:
        """Return the mixture that a filter starts from."""
        self._check_fitted()
        if not self.task_.meta_prior.is_mixture:
            raise ValueError("filter needs a network for mixture priors")
        try:
            x0, _ = standing_for(self.task_, x0)
            self.task_.meta_prior.checked(x0)
            check_support(self.task_, x0)
        except (TypeError, InvalidDataError) as error:
            raise type(error)(f"x0, the prior at the start of the filter: {error}") from error
        return x0

    # ------------------------------------------------------------ sensitivity

    def prior_sensitivity(
        self, z: Any, *, prior: Any, parameters: Any = None, missing: str = "raise"
    ) -> dict[str, dict[str, np.ndarray]]:
        r"""Return how mean and standard deviation of the posterior move with the prior.

        Derivatives by automatic differentiation, of the mean and of the log of the standard
        deviation of each unconstrained coordinate.

        Parameters
        ----------
        z, prior, parameters, missing
            As for :meth:`posterior`, for one problem.

        Returns
        -------
        dict
            ``"mean"`` and ``"log_std"``, each a dict by part of the prior: for mixtures
            ``"log_weights"`` (d, k), ``"means"`` (d, k, d) and ``"log_scales"`` (d, k), where a
            scale multiplies the factor of a component; for parametric families
            ``"parameters"`` (d, p) in the order of the families, by logs of positive ones.
        """
        problems, is_batch = self._problems(z, prior, parameters, missing)
        if is_batch:
            raise InvalidDataError("prior_sensitivity takes one problem at a time, not a batch")
        full = self._padded(problems)
        with self._on_device(), precision_scope(self.precision), program_cache():
            full = jax.tree.map(self._in_precision, full)
            found = derivatives(self.task_, self.network_, self.weights_, self.scaling_, full)
            return jax.tree.map(np.asarray, found)
