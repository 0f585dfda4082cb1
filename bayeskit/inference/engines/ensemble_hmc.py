"""Many short Hamiltonian chains with one whitened metric: the default engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeskit.inference.engines.ensemble.program import MAPPINGS
from bayeskit.inference.engines.ensemble.run import Ensemble
from bayeskit.inference.kernels import HMC
from bayeskit.inference.kernels.hmc import INTEGRATORS
from bayeskit.inference.long_run import LongRunSettings
from bayeskit.inference.measure import Target
from bayeskit.inference.posterior import Posterior

__all__ = ["EnsembleHMC"]


@dataclass(frozen=True)
class EnsembleHMC(LongRunSettings):
    r"""Some dozen short Hamiltonian chains that share start, metric and step size.

    In coordinates whitened by a dense metric an almost normal posterior forgets where it was
    after a quarter turn, two or three leapfrog steps. The chains start from a weighted
    mixture at the modes, warm up together, and then every constant is frozen: each chain is
    a plain reversible HMC chain with the posterior as its invariant law.

    Parameters
    ----------
    num_chains : int, optional
        Default: 64, or 32 in up to 10 and in more than 200 dimensions.
    num_draws : int, optional
        Draws kept for each chain. Default: until ``target_ess`` is reached.
    target_ess : float
        Least effective sample size wanted of means, tails and squared deviations, over all
        parameters.
    num_warmup : int, optional
        Iterations of warm-up, rounded up to a multiple of 25. Default: 100; 200 in more than
        50 dimensions or where the start is far from normal; 400 in more than 200 dimensions.
    num_starts : int
        Searches for modes, from dispersed points. A mode that none of them finds is missed.
    integrator : {"leapfrog", "rotation"}
        See :class:`~bayeskit.inference.HMC`.
    trajectory, jitter : float
        Length of trajectories in whitened time, and the fraction by which it varies.
    target_acceptance : float in (0, 1)
        Mean over chains that the step size is tuned for; 0.9 at least where trajectories
        diverge in the warm-up.
    evidence : bool
        Estimate the log evidence from the draws where there is a proper prior.
    max_gradients : int
        Gradients after which sampling stops without ``target_ess``; what needs more by
        prediction stops early.
    mapping : {"auto", "together", "serial"}
        How gradients of all chains are taken: at once, or one chain after another, which on a
        CPU is quicker for some densities, mixtures above all. "auto" measures it once; where
        the race is close, name one for the same bits in every session.
    progress : "auto" or bool
    checkpoint, checkpoint_every, max_seconds
        Of runs that take long; see :class:`~bayeskit.inference.LongRunSettings`. Checkpoints
        begin when the search for modes has ended.

    Raises
    ------
    ValueError
        For settings that make no sense, such as a single chain.

    Notes
    -----
    The numbers do not depend on how iterations are cut into calls of the compiled program.

    References
    ----------
    Duane et al. (1987); Neal (2011); Hoffman & Sountsov (2022) for many short chains; Zhang,
    Carpenter, Gelman & Vehtari (2022) for the start; Meng & Schilling (2002) for the evidence.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> import bayeskit as bk
    >>> target = bk.Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    >>> starts = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    >>> engine = bk.EnsembleHMC(progress=False)
    >>> posterior = engine.run(target, key=0, initial_positions=starts)
    >>> posterior.diagnostics.converged
    True
    """

    num_chains: int | None = None
    num_draws: int | None = None
    target_ess: float = 1000.0
    num_warmup: int | None = None
    num_starts: int = 4
    integrator: str = "leapfrog"
    trajectory: float = math.pi / 2
    jitter: float = 0.3
    target_acceptance: float = 0.8
    evidence: bool = True
    max_gradients: int = 1_000_000
    mapping: str = "auto"
    progress: str | bool = "auto"

    def __post_init__(self):
        super().__post_init__()
        least = {"num_chains": 4, "num_draws": 4}
        for name in ("num_chains", "num_draws", "num_warmup", "num_starts", "max_gradients"):
            value, lowest = getattr(self, name), least.get(name, 1)
            optional = name in ("num_chains", "num_draws", "num_warmup")
            if value is None and optional:
                continue
            if not isinstance(value, int | np.integer) or value < lowest:
                raise ValueError(f"{name} must be a whole number >= {lowest}, got {value!r}")
        for name in ("target_ess", "trajectory"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        if not 0 < self.target_acceptance < 1:
            raise ValueError(
                f"target_acceptance must be in (0, 1), got {self.target_acceptance!r}"
            )
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be in [0, 1), got {self.jitter!r}")
        if self.integrator not in INTEGRATORS:
            raise ValueError(
                f"integrator must be one of {INTEGRATORS}, got {self.integrator!r}"
            )

        if self.mapping not in MAPPINGS:
            raise ValueError(f"mapping must be one of {MAPPINGS}, got {self.mapping!r}")

    @property
    def kernel(self) -> HMC:
        """The transition of each chain, which ``bk.validate`` checks."""
        return HMC(trajectory=self.trajectory, jitter=self.jitter, integrator=self.integrator)

    def run(
        self,
        target: Target,
        data: tuple | None = None,
        key: Any = 0,
        *,
        initial_positions: Any = None,
    ) -> Posterior:
        """Return the posterior of a target, for data of the given arrays.

        Parameters
        ----------
        target : Target
        data : tuple of arrays, optional
            Default: the data that the target holds.
        key : int or JAX key
        initial_positions : pytree of arrays (num_starts, ...), optional
            Where the searches for modes start. Default: uniform on (-2, 2), each point with its
            mirror image, and prior draws where the density is not finite there.

        Raises
        ------
        MissingGradientError
            If the target has no gradient.
        ImproperPriorError
            If the dimension is unknown: neither prior draws nor initial positions.
        InitializationError
            If no start has a finite density and gradient, or the density rises for ever.
        KeyboardInterrupt, UnfinishedRunError
            After Ctrl-C or ``max_seconds``, if that comes before the first draws.
        """
        return Ensemble(self, target, data, key, initial_positions).run()
