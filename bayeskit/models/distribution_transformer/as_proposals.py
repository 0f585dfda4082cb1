"""Amortised posteriors as proposals in algorithms of one's own."""

from __future__ import annotations

from typing import Any

from bayeskit.errors import InvalidDataError
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.measure import Target
from bayeskit.models.distribution_transformer.checks import Checks
from bayeskit.models.distribution_transformer.correcting import check_likelihood, refinement_of
from bayeskit.models.distribution_transformer.filtering import guided_model
from bayeskit.models.distribution_transformer.given_priors import standing_for

__all__ = ["AsProposals"]


class AsProposals(Checks):
    """Exact targets and models that begin where the network is."""

    def bridge(
        self, z: Any, *, prior: Any, parameters: Any = None, missing: str = "raise"
    ) -> Target:
        r"""Return the exact posterior as a target that is tempered from the amortised one.

        .. math:: q_a^{1 - \lambda}\, (p\, L)^\lambda, \qquad q_a = 0.95\, q + 0.05\, p

        For engines and blocks of :mod:`bayeskit.inference` that temper, such as
        :class:`~bayeskit.inference.SMC`: they begin with draws from the network, and end with
        the exact posterior and its evidence.

        Parameters
        ----------
        z, prior, parameters, missing
            As for :meth:`posterior`, for one problem.

        Returns
        -------
        Target
            Of the latent without constraints; draws of engines, named ``"x"``, are constrained.

        Raises
        ------
        ValueError
            Without a log likelihood.
        InvalidDataError
            For a batch, and as :meth:`posterior`.

        Examples
        --------
        >>> import bayeskit as bk
        >>> counts = bk.DistributionTransformer.pretrained("poisson")
        >>> prior = bk.GaussianMixture([1.0], [1.0], [0.25], support="positive")
        >>> counts.bridge([3, 5, 2], prior=prior).name
        'p(u | z)'
        """
        self._check_fitted()
        check_likelihood(self.task_, "bridge")
        standing, law = standing_for(self.task_, prior, quiet=True)
        problems, is_batch = self._problems(z, standing, parameters, missing)
        if is_batch:
            raise InvalidDataError("bridge takes one problem at a time, not a batch")
        found = self._answered(problems, strict=False, quiet=True)
        padded = self._padded(problems)
        return refinement_of(self.task_, padded, found.mixture, law, 0).bridge()

    def guided_model(
        self,
        zs: Any,
        *,
        A: Any,
        Q: Any,
        x0: Any,
        c: Any = None,
        parameters: Any = None,
        missing: str = "raise",
    ) -> FeynmanKac:
        r"""Return a Feynman-Kac model whose proposals are amortised posteriors.

        Each particle moves by the posterior that the network makes of its own prediction, with
        a twentieth of the prediction itself, and is weighed by how that differs from the exact
        one: filters of it are exact, and their evidence is unbiased. ``filter(...,
        refine="particles")`` runs one; this is for blocks and algorithms of one's own, such as
        :func:`~bayeskit.inference.particle_filter`.

        Parameters
        ----------
        zs, A, Q, x0, c, parameters, missing
            As for :meth:`filter`, for one series; Q positive definite.

        Returns
        -------
        FeynmanKac
            States have ``u``, the latent without constraints, and their log-weight.

        Raises
        ------
        ValueError
            Without a log likelihood, and for Q without full rank.
        InvalidDataError
            For a batch, and as :meth:`filter`.
        """
        x0 = self._checked_start(x0)
        return guided_model(self, zs, A, Q, x0, c, parameters, missing)
