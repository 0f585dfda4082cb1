"""Trained estimators that come from a file, and files that they are written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from bayeskit.models.distribution_transformer import saving
from bayeskit.models.distribution_transformer.as_proposals import AsProposals
from bayeskit.models.distribution_transformer.pretrained import load_pretrained

__all__ = ["Stored"]


class Stored(AsProposals):
    """Files of trained estimators, those of the package among them."""

    def save(self, path: str | Path) -> None:
        """Write the trained estimator to one file that holds numbers and text only.

        The simulator is not in the file, unless it is :class:`LinearGaussian`: it is code.
        """
        self._check_fitted()
        saving.save(self, path)

    @classmethod
    def load(cls, path: str | Path, *, simulator: Any = None) -> Self:
        """Return the estimator that was saved at ``path``.

        Parameters
        ----------
        path : str or Path
        simulator : optional
            That of training. It is needed where the file does not hold it.

        Raises
        ------
        CorruptFileError
            If the file is not one of ours, was changed, or has an unknown version.
        ValueError
            Without the simulator, where it is needed.
        """
        return saving.load(cls, path, simulator)

    @classmethod
    def pretrained(cls, name: str) -> Self:
        r"""Return a trained network that comes with the package, in milliseconds.

        For 1 to 20 observations and mixture priors of one to three components, in the
        unconstrained coordinates of the table.

        ============= ========================================= ============ ============
        name          one observation                           latent x     mixture of
        ============= ========================================= ============ ============
        ``"normal"``  a number                                  mean, sd     mean, log sd
        ``"poisson"`` a count                                   rate         log x
        ``"weibull"`` time, and 1 if the event was seen, 0 if   scale, shape log x
                      the time was censored
        ============= ========================================= ============ ============

        A Weibull time exceeds t with probability :math:`\exp(-(t / s)^a)`, with s the scale and
        a the shape. Posteriors start as parts fitted on a grid, as without training; what
        training has gained beyond that, and where it was trained, stands in ``report_``.

        Parameters
        ----------
        name : str

        Returns
        -------
        DistributionTransformer
            With ``report_``, a dict: the range of training (``"range"``), divergences from
            exact posteriors (``"kl"``, and before training ``"untrained_kl"``), and the result
            of :meth:`calibrate` (``"calibration"``).

        Raises
        ------
        ValueError
            For any other name, with those that there are.

        Examples
        --------
        >>> import bayeskit as bk
        >>> dt = bk.DistributionTransformer.pretrained("poisson")
        >>> prior = bk.GaussianMixture([1.0], [1.0], [0.25], support="positive")
        >>> posterior = dt.posterior([3.0, 5.0, 2.0], prior=prior)
        >>> bool(3.0 < posterior.mean[0] < 3.4)
        True
        """
        return load_pretrained(cls, name)

    @classmethod
    def _from_container(cls, read: Any, simulator: Any) -> Self:
        return saving.from_container(cls, read, simulator)
