r"""The doubly robust moments: predictions everywhere, corrected where labels are.

.. math:: \tilde m_i(\theta) = \lambda\, m(\hat D_i; \theta) + \frac{R_i}{\pi_i}
    \{ m(D_i; \theta) - \lambda\, m(\hat D_i; \theta) \} .

This is a weighted sum over stacked rows: all units with their predictions, weighted by
:math:`\lambda (1 - R_i/\pi_i)`, then the labelled ones with their labels, weighted by
:math:`R_i/\pi_i`. So one solver of weighted moment equations serves every model and every
comparison: :math:`\lambda = 0` uses labels alone, and without labels the predictions stand
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayeskit.models.dsl.fixed_effects import absorb
from bayeskit.models.dsl.instruments import first_stage
from bayeskit.models.dsl.links import Link
from bayeskit.models.dsl.moments import Rows, stacked

__all__ = ["MomentData"]


@dataclass(frozen=True, eq=False)
class MomentData:
    """What the moments are made of.

    Parameters
    ----------
    link : Link
    predicted : Rows
        All units with predictions in place of labels (splits or 1, units, ...).
    true : Rows
        The labelled units (1, labelled, ...).
    labeled : (labelled) int array
        Their places among the units.
    probability : (units) array
        Of being labelled.
    clusters : tuple of (units) int arrays
    strata : (units) int array, optional
        Within which labels were drawn; means of corrections are then taken out by stratum.
    effects : tuple of (units) int arrays
        Fixed effects, of linear models.
    has_instruments : bool
    """

    link: Link
    predicted: Rows
    true: Rows
    labeled: np.ndarray
    probability: np.ndarray
    clusters: tuple[np.ndarray, ...] = ()
    strata: np.ndarray | None = None
    effects: tuple[np.ndarray, ...] = ()
    has_instruments: bool = False

    @property
    def num_units(self) -> int:
        """Number of units, labelled or not."""
        return self.predicted.x.shape[1]

    @property
    def num_splits(self) -> int:
        """Number of repeats of the random split."""
        return max(a.shape[0] for a in self.predicted)

    @property
    def unit(self) -> np.ndarray:
        """The unit of each stacked row."""
        return np.concatenate([np.arange(self.num_units), self.labeled])

    def weights(self, power: Any = 1.0) -> np.ndarray:
        r"""Return the weights (splits or 1, stacked rows) at :math:`\lambda` = ``power``."""
        inverse = 1.0 / self.probability[self.labeled]
        ratio = np.zeros(self.num_units)
        ratio[self.labeled] = inverse
        power = np.atleast_1d(np.asarray(power, float))
        first = power[:, None] * (1.0 - ratio)
        return np.concatenate(
            [first, np.broadcast_to(inverse, (len(first), len(inverse)))], axis=1
        )

    def rows(self, weight: np.ndarray) -> Rows:
        """Return the stacked rows, without fixed effects and with fitted instruments.

        Both depend on the weights (splits or 1, stacked rows).
        """
        x, y = (stacked(getattr(self.predicted, n), getattr(self.true, n)) for n in "xy")
        z = stacked(self.predicted.z, self.true.z) if self.has_instruments else x
        rows = Rows(x, z, y)
        if self.effects:
            effects = tuple(codes[self.unit] for codes in self.effects)
            splits = max(len(weight), *(len(a) for a in rows))
            weight = np.broadcast_to(weight, (splits, weight.shape[1]))
            several = [absorb(rows.split(s), weight[s], effects) for s in range(splits)]
            x, y = (np.concatenate([getattr(r, n) for r in several]) for n in "xy")
            z = np.concatenate([r.z for r in several]) if self.has_instruments else x
            rows = Rows(x, z, y)
        return first_stage(rows, weight) if self.has_instruments else rows

    def one_split(self, number: int) -> MomentData:
        """Return the data of a single split."""
        return replace(self, predicted=self.predicted.split(number))

    def without_labels(self, predicted: Rows) -> MomentData:
        """Return data in which given rows stand alone, as if they were the truth."""
        none = Rows(*(a[:, :0] for a in self.true))
        nobody = np.zeros(0, int)
        return replace(self, predicted=predicted, true=none, labeled=nobody, strata=None)
