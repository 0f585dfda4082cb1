"""The estimator of amortised posteriors that take the prior as an input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import ConvergenceWarning
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.progress import ProgressLine
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.distribution_transformer.first_sample import FirstSample, first_sample
from bayeskit.models.distribution_transformer.network import Network
from bayeskit.models.distribution_transformer.ranges import observed_range
from bayeskit.models.distribution_transformer.settings import (
    check_settings,
    device_scope,
    identity_of_training,
    training_of,
)
from bayeskit.models.distribution_transformer.signatures import check_keys_are_used
from bayeskit.models.distribution_transformer.simulation_checks import check_simulations
from bayeskit.models.distribution_transformer.simulators import as_simulator
from bayeskit.models.distribution_transformer.stored import Stored
from bayeskit.models.distribution_transformer.supports import as_support
from bayeskit.models.distribution_transformer.task import Task
from bayeskit.models.distribution_transformer.training import Plan, initial_state, train
from bayeskit.models.distribution_transformer.training_progress import HISTORY, Progress

__all__ = ["DistributionTransformer"]


class DistributionTransformer(Stored, BaseEstimator):
    r"""Amortised posteriors for any prior: a Distribution Transformer.

    Trained once on simulations, it maps a prior and data to the posterior in milliseconds,

    .. math:: (p(x), z) \mapsto q(x) = \sum_{i=1}^k w_i\, N(x; \mu_i, \Sigma_i)
              \approx p(x \mid z),

    so that the prior may be changed at each call. Posteriors are mixtures as priors are: one
    can be the prior of the next observation, as in a filter.

    Parameters
    ----------
    simulator : Simulator, JointSimulator, LinearGaussian, NumPyroSimulator or callable
        Draws data given a latent; a plain function ``(key, x)`` draws one observation. With a
        log likelihood, training starts from an update of each component on its own, learns
        from several weighted draws a problem, and posteriors can be refined.
    meta_prior : GaussianMixtureMetaPrior or ParametricMetaPrior
        The law of the priors to be trained on.
    n_components : int
        Components of posteriors; as many as the prior has, if it has more. Each component of
        the prior is given one, and the others go to those with most of the posterior, so that
        one Gaussian may have a skewed posterior. Linear Gaussian data with mixture priors
        need as many as the prior has.
    support : str, tuple or list, optional
        Where the latent lives, for mixture priors: ``"real"``, ``"positive"``, ``"unit"``,
        ``("interval", low, high)``, ``"simplex"``, ``"correlation"``, or a list. Mixtures are
        those of the unconstrained latent. Parametric families bring theirs.
    warm_start : bool
        Start from the exact update of linear Gaussian data, and else from Newton's method and a
        quadrature for each component, whose parts are fitted to it in one or two dimensions.
        Mixture priors without a log likelihood start from a statistical linearisation: a
        regression of simulated data on the latent and a Kalman update of each component, if
        that is better than the prior on problems kept aside. False starts from the prior.
    d_model, n_layers, n_heads, d_hidden : int
        Width of a token, layers, heads, and width of the hidden layers.
    max_steps, budget_seconds : int and float, optional
        Training ends at the first of them. Steps are the same everywhere; seconds, without
        those of compiling, are not.
    batch_size : int
        Problems in a step.
    n_draws : int
        Weighted posterior draws of each problem beside the latent that made the data, where the
        likelihood is known.
    lr : float
        Largest step size of Adam; it grows over the first 5 % and falls to zero by a cosine.
    patience : int, optional
        Stop after this many chunks of 50 steps without a better loss on fixed problems.
    checkpoint : str or Path, optional
        A file that training goes on from when the same call is made again, to the same bits
        where ``max_steps`` ends it.
    checkpoint_every, max_seconds : float
        Seconds between two checkpoints, and after which training stops as after Ctrl-C; see
        :class:`~bayeskit.inference.LongRunSettings`.
    progress : "auto" or bool
    random_state : int, numpy random state, JAX key, or None
    precision : {"float64", "float32"}
        Of everything but the network, which is float32.
    device : str, optional
        Such as ``"cpu"`` or ``"gpu"``; by default that of JAX.

    Attributes
    ----------
    history_ : DataFrame
        Step, seconds, loss of the chunk, loss on fixed problems, steps skipped for NaN.
    n_steps_ : int
    train_seconds_ : float
    loss_, start_loss_ : float
        Expected negative log density of the posterior draws of fixed problems, with the best
        weights and without training; their difference is that of expected Kullback-Leibler
        divergences.
    weights_, scaling_, range_ : what was learned
    interrupted_ : bool
        Whether training ended before it was to.
    timing_ : dict of float
        Seconds of compiling and of running.

    Notes
    -----
    Mixture priors with linear Gaussian data have mixtures as posteriors, which the warm start
    gives exactly: nothing is trained.

    The best weights on the fixed problems are kept, those before training among them.

    References
    ----------
    Whittle, Ziomek, Rawling & Osborne (2025), *Distribution Transformers: Fast Approximate
    Bayesian Inference With On-The-Fly Prior Adaptation*.

    Examples
    --------
    >>> import bayeskit as bk
    >>> from bayeskit.models.distribution_transformer import (
    ...     GaussianMixtureMetaPrior,
    ...     LinearGaussian,
    ... )
    >>> dt = bk.DistributionTransformer(
    ...     simulator=LinearGaussian(1.0, 1.0, num_observations=(1, 10)),
    ...     meta_prior=GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
    ...     random_state=0,
    ... ).fit()
    >>> prior = bk.GaussianMixture([0.5, 0.5], [-2.0, 2.0], [1.0, 1.0])
    >>> dt.posterior([1.0], prior=prior).mean.round(3)
    array([1.262])
    """

    def __init__(
        self,
        simulator: Any = None,
        meta_prior: Any = None,
        *,
        n_components: int = 5,
        support: Any = None,
        warm_start: bool = True,
        d_model: int = 64,
        n_layers: int = 3,
        n_heads: int = 4,
        d_hidden: int = 128,
        max_steps: int | None = None,
        budget_seconds: float | None = 120.0,
        batch_size: int = 512,
        n_draws: int = 16,
        lr: float = 1e-3,
        patience: int | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: float = 60.0,
        max_seconds: float | None = None,
        progress: str | bool = "auto",
        random_state: Any = None,
        precision: str = "float64",
        device: str | None = None,
    ):
        self.simulator = simulator
        self.meta_prior = meta_prior
        self.n_components = n_components
        self.support = support
        self.warm_start = warm_start
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.d_hidden = d_hidden
        self.max_steps = max_steps
        self.budget_seconds = budget_seconds
        self.batch_size = batch_size
        self.n_draws = n_draws
        self.lr = lr
        self.patience = patience
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.max_seconds = max_seconds
        self.progress = progress
        self.random_state = random_state
        self.precision = precision
        self.device = device

    # ------------------------------------------------------------ what is trained

    def _task(self) -> Task:
        simulator, support = as_simulator(self.simulator), self.support
        if not hasattr(self.meta_prior, "draw_latent"):
            raise TypeError(
                "meta_prior must be a GaussianMixtureMetaPrior or a ParametricMetaPrior, got "
                f"{type(self.meta_prior).__name__}"
            )
        if not self.meta_prior.is_mixture:
            if support is not None:
                raise ValueError(
                    "support must be None for a ParametricMetaPrior: its families bring "
                    f"{self.meta_prior.support}"
                )
            support = list(self.meta_prior.support)
        elif support is None and simulator.support is not None:
            support = list(simulator.support)
        dim = self.meta_prior.dim
        found = as_support("real" if support is None else support, dim)
        return Task(
            self.meta_prior, simulator, found, int(self.n_components), bool(self.warm_start)
        )

    def _network(self, task: Task) -> Network:
        named = 0 if task.meta_prior.is_mixture else task.num_components
        return Network(
            task.dim, self.d_model, self.n_layers, self.n_heads, self.d_hidden, named
        )

    # ------------------------------------------------------------ fitting

    def fit(self, X: Any = None, y: Any = None) -> DistributionTransformer:
        """Train on simulations.

        Parameters
        ----------
        X, y
            Not used; there for scikit-learn. All data are simulated.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError, IndexError
            For settings that cannot be used and simulators that cannot be called, or that read
            coordinates that are not there, before anything is compiled; for simulations or log
            likelihoods most of which are not finite, before training.

        Warns
        -----
        NumericalWarning
            If some simulations are not finite, or the loss was not; those steps are left out.
            If a simulator does not use its key.
        ConvergenceWarning
            If nothing was learned and nothing is known: posteriors are then the priors.
        InterruptedRunWarning
            If Ctrl-C or ``max_seconds`` ended training early; the best weights so far are kept.

        Notes
        -----
        The first Ctrl-C waits for the end of a piece of about two seconds, the second raises
        KeyboardInterrupt at once. See :class:`~bayeskit.inference.LongRun`.
        """
        check_settings(self)
        task = self._task()
        sizes = task.simulator.row_sizes(task.support.constrained_dim)
        check_keys_are_used(task.simulator, task.support.constrained_dim)
        key = as_random_key(self.random_state)
        with (
            self._on_device(),
            precision_scope("float32"),
            program_cache(),
            CompileClock() as clock,
        ):
            of_range, of_training = jax.random.split(key)
            line = ProgressLine(type(self).__name__, self.progress)
            task, sample, features = first_sample(task, of_range)
            check_simulations(sample)
            seen = observed_range(task, sample, features)
            weights: Any = {}
            scaling: Any = ()
            progress, is_interrupted = Progress(), False
            if task.kind != "exact":
                weights, scaling, progress, is_interrupted = self._train(
                    task, of_training, sample, line
                )
        line.close(_outcome(task, progress))
        if task.kind == "prior" and not (progress.step or task.simulator.has_log_likelihood):
            warnings.warn(
                "nothing was learned, and without a log likelihood there is nothing to start "
                "from: every posterior is its prior. Train for more than max_steps=0, or give "
                "the simulator a log_likelihood",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.task_, self.row_sizes_, self.range_ = task, sizes, seen
        self.weights_, self.scaling_ = weights, scaling
        self.network_ = self._network(task)
        self._keep_progress(progress)
        self.interrupted_ = is_interrupted
        self.timing_ = clock.timing()
        return self

    def _on_device(self) -> Any:
        return device_scope(self.device)

    def _train(
        self, task: Task, key: jax.Array, sample: FirstSample, line: ProgressLine
    ) -> tuple[Any, Any, Progress, bool]:
        plan = Plan(task, self._network(task), int(self.batch_size), int(self.n_draws))
        of_weights, of_steps = jax.random.split(key)
        state, scaling = initial_state(plan, of_weights, sample)
        state, progress, is_interrupted = train(
            plan,
            state,
            scaling,
            of_steps,
            sample,
            training_of(self),
            line,
            identity_of_training(self),
        )
        best = progress.best_weights
        weights = best if best is not None else state.weights
        return weights, jax.tree.map(np.asarray, scaling), progress, is_interrupted

    def _keep_progress(self, progress: Progress) -> None:
        import pandas as pd

        history = pd.DataFrame(progress.history, columns=list(HISTORY))
        self.history_ = history.astype({"step": int, "skipped": int})
        self.n_steps_, self.train_seconds_ = progress.step, progress.seconds
        self.loss_ = progress.best_loss if len(progress.history) else math.nan
        self.start_loss_ = progress.start_loss


def _outcome(task: Task, progress: Progress) -> str:
    """Return the last words of the line of progress."""
    if task.kind == "exact":
        return "exact without training"
    gain = progress.start_loss - progress.best_loss
    gained = f"{gain:.4f} better than untrained" if gain > 0 else "no better than untrained"
    return f"{progress.step} steps, loss {progress.best_loss:.4f}, {gained}"
