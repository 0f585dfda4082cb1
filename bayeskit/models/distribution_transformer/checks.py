"""What a trained estimator is asked about itself, and about data that do not fit."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import OutOfMetaPriorWarning
from bayeskit.inference import random
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.distribution_transformer.answers import Answers
from bayeskit.models.distribution_transformer.calibration import (
    CalibrationReport,
    check_numbers,
)
from bayeskit.models.distribution_transformer.given_priors import standing_for
from bayeskit.models.distribution_transformer.simulated_problems import (
    report_on,
    simulated_problems,
)
from bayeskit.models.distribution_transformer.surprise import (
    NUM_SIMULATED,
    PredictiveCheck,
    checked_against_prior,
)

__all__ = ["Checks"]


class Checks(Answers):
    """Calibration, and data beside what their prior predicts."""

    def predictive_check(
        self,
        z: Any,
        *,
        prior: Any,
        parameters: Any = None,
        missing: str = "raise",
        random_state: Any = None,
    ) -> PredictiveCheck:
        """Say how unusual data are for their prior, by the tail of the log evidence.

        255 data sets are simulated from the prior of each problem, with as many observations.

        Parameters
        ----------
        z, prior, parameters, missing
            As for :meth:`posterior`.
        random_state : int, numpy random state, JAX key, or None

        Returns
        -------
        PredictiveCheck
            Arrays with one entry for each problem.

        Warns
        -----
        OutOfMetaPriorWarning
            For data that are far less likely than all simulated ones: the prior, or the model,
            is at odds with them, and so is every posterior, however exact.

        Raises
        ------
        ValueError
            Where the evidence is not known: without a log likelihood or with
            ``warm_start=False``; and for more observations than in training.
        """
        self._check_fitted()
        task = self.task_
        if not task.has_evidence:
            raise ValueError(
                "predictive_check needs the evidence, which the warm start gives: it takes a "
                "log likelihood and warm_start=True"
            )
        prior, _ = standing_for(task, prior)
        problems, _ = self._problems(z, prior, parameters, missing)
        full = self._padded(problems)
        for name, (_, most) in task.simulator.num_observations.items():
            if full.rows[name].shape[1] > most:
                raise ValueError(
                    f"predictive_check simulates up to {most} observations of {name!r}, got "
                    f"{problems.rows[name].shape[1]}"
                )
        batch = len(problems.vector)
        keys = random.split(as_random_key(random_state), batch)
        with self._on_device(), precision_scope(self.precision), program_cache():
            found = checked_against_prior(task, jax.tree.map(self._in_precision, full), keys)
        if found.is_unusual.any():
            first = int(found.is_unusual.argmax())
            many = f" (problem {first} of {batch})" if batch > 1 else ""
            warnings.warn(
                f"the data are unusual for their prior{many}: their log evidence is "
                f"{found.log_evidence[first]:.3g}, and the lowest of {NUM_SIMULATED} data sets "
                f"simulated from the prior has {found.lowest[first]:.3g}. Check the prior, the "
                "units and the model",
                OutOfMetaPriorWarning,
                stacklevel=2,
            )
        return found

    # ------------------------------------------------------------ calibration

    def calibrate(
        self,
        n: int = 500,
        *,
        n_draws: int = 99,
        alpha: float = 1e-4,
        random_state: Any = None,
    ) -> CalibrationReport:
        """Check on fresh simulations that posteriors cover the truth as often as they say.

        Ranks of the true latent, of its likelihood and of its density, and coverage by balls
        around random points and around guesses made of the data (TARP); over all that training
        draws from, and by regions of the features of the prior, so that a region that fails is
        named. Where the likelihood is known, draws from each posterior are compared with
        refined ones: by the best classifier (C2ST) and by the energy score.

        Parameters
        ----------
        n : int
            Number of problems, at least 100. With more, smaller errors are found.
        n_draws : int
            Posterior draws for each problem.
        alpha : float in (0, 1)
            Bound on the probability that exact posteriors fail.
        random_state : int, numpy random state, JAX key, or None

        Returns
        -------
        CalibrationReport
            With ``verdict``, ``worst``, ``failing_regions``, ``c2st``, ``energy_gap`` and
            ``to_frame()``.
        """
        self._check_fitted()
        check_numbers(n, n_draws, alpha)
        simulation_key, others_key, rank_key = random.split(as_random_key(random_state), 3)
        with self._on_device(), precision_scope(self.precision), program_cache():
            simulated = simulated_problems(self.task_, int(n), simulation_key)
            others = simulated_problems(self.task_, int(n), others_key)
            simulated, others = jax.tree.map(np.asarray, (simulated, others))
            found = self._answered(simulated.problems, strict=False, quiet=True)
            return report_on(
                self.task_,
                simulated,
                others,
                found.mixture,
                num_draws=n_draws,
                alpha=alpha,
                random_state=rank_key,
            )
