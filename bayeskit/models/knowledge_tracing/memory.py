"""What is kept of each learner between calls: beliefs, exposures and the rows themselves."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.knowledge_tracing.block_filter import Forecasts
from bayeskit.models.knowledge_tracing.programs import filter_program
from bayeskit.models.knowledge_tracing.rows import Interactions
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import (
    Exposures,
    Trials,
    padded_size,
    padded_trials,
    trials_of,
)

__all__ = ["Memory"]

# Learners times rows of a compiled call, so that memory stays bounded.
_MAX_CELLS = 2**19
_MAX_LEARNERS = 4096


class Memory:
    """Beliefs of learners, each of which can be taken further.

    Parameters
    ----------
    structure : Structure
    parameters : dict
        In natural units and in the precision of the filter.
    first : pytree of arrays
        What is believed of a learner of whom nothing is known.
    precision : str

    Attributes
    ----------
    beliefs : pytree of arrays with a leading axis of learners
    exposures : Exposures
    log_evidence : float
    """

    def __init__(self, structure: Structure, parameters: dict, first: Any, precision: str):
        self.structure = structure
        self.parameters = parameters
        self.first = first
        self.precision = precision
        self.size = 0
        self.beliefs = jax.tree.map(lambda x: x[None][:0], first)
        self.exposures = Exposures.none(0, structure)
        self.log_evidence = 0.0
        self._parts: list[Interactions] = []

    def make_room(self, num: int, spare: int = 0) -> None:
        """Hold at least so many learners; room doubles, so that each costs O(1).

        Parameters
        ----------
        num : int
        spare : int
            Places behind those of the learners, of whom nothing is known.
        """
        capacity = len(self.exposures.first)
        self.size = max(self.size, num)
        needed = self.size + spare
        if needed <= capacity:
            return
        more = max(needed, 2 * capacity) - capacity
        self.beliefs = jax.tree.map(
            lambda all_, one: np.concatenate([all_, np.repeat(one[None], more, axis=0)]),
            self.beliefs,
            self.first,
        )
        blank = Exposures.none(more, self.structure)
        self.exposures = Exposures(
            *(np.concatenate(pair) for pair in zip(self.exposures, blank, strict=True))
        )

    def filtered(self, beliefs: Any, trials: Trials) -> tuple[Any, Any]:
        """Return beliefs after the rows of learners, and the forecast of each row."""
        return filter_program(self.parameters, beliefs, trials, structure=self.structure)

    def take_in(self, rows: Interactions, learner: np.ndarray, shown: Any = str) -> Forecasts:
        """Filter new rows, keep the beliefs, and return the forecast of each row.

        ``shown`` is how a time is shown in messages.
        """
        self.check_later(rows, learner, shown)
        forecasts, distinct, beliefs, exposures = self.followed(rows, learner)
        for kept, new in zip(
            jax.tree.leaves(self.beliefs), jax.tree.leaves(beliefs), strict=True
        ):
            kept[distinct] = new
        for kept, new in zip(self.exposures, exposures, strict=True):
            kept[distinct] = new
        self.log_evidence += float(np.sum(forecasts.log_density, dtype=np.float64))
        self._parts.append(rows)
        return forecasts

    def followed(
        self, rows: Interactions, learner: np.ndarray
    ) -> tuple[Forecasts, np.ndarray, Any, Exposures]:
        """Return forecasts of rows, and what is believed after them; nothing is kept.

        Parameters
        ----------
        rows : Interactions
            Sorted by learner and time.
        learner : (rows,) int array
            Place of each row's learner.
        """
        distinct, place = np.unique(learner, return_inverse=True)
        lengths = np.bincount(place)
        if len(place) <= _MAX_CELLS:
            return self._followed(rows, place, distinct)
        # Learners in groups, so that what is told of rows is never there for all of them.
        flat = Forecasts(*(np.zeros(len(place), self.precision) for _ in Forecasts._fields))
        kept = []
        group = np.cumsum(lengths) // _MAX_CELLS
        for number in np.unique(group):
            chosen = group == number
            own = chosen[place]
            part = Interactions(*(column[own] for column in rows))
            inner = (np.cumsum(chosen) - 1)[place[own]]
            forecasts, _, *after = self._followed(part, inner, distinct[chosen])
            for all_, new in zip(flat, forecasts, strict=True):
                all_[own] = new
            kept.append(after)
        beliefs, exposures = jax.tree.map(lambda *x: np.concatenate(x), *kept)
        return flat, distinct, beliefs, exposures

    def _followed(
        self, rows: Interactions, place: np.ndarray, distinct: np.ndarray
    ) -> tuple[Forecasts, np.ndarray, Any, Exposures]:
        seen = Exposures(*(part[distinct] for part in self.exposures))
        trials, after = trials_of(rows, place, seen, self.structure)
        forecasts, beliefs = self._run(trials, place, distinct)
        return forecasts, distinct, beliefs, after

    def glimpsed(self, rows: Interactions, learner: np.ndarray) -> Forecasts:
        """Return the forecast of each row by itself, as if no other row followed."""
        num = len(learner)
        flat = Forecasts(*(np.zeros(num, self.precision) for _ in Forecasts._fields))
        for begin in range(0, num, _MAX_LEARNERS):
            part = slice(begin, min(begin + _MAX_LEARNERS, num))
            who, alone = learner[part], np.arange(part.stop - begin)
            seen = Exposures(*(x[who] for x in self.exposures))
            own = Interactions(*(column[part] for column in rows))
            trials, _ = trials_of(own, alone, seen, self.structure)
            padded, where = padded_trials(trials, alone, self.structure, self.precision)
            filled = np.r_[who, np.full(padded.real.shape[0] - len(who), who[0])]
            beliefs = jax.tree.map(lambda x, f=filled: x[f], self.beliefs)
            _, forecasts = self.filtered(beliefs, padded)
            for kept, new in zip(flat, forecasts, strict=True):
                kept[part] = np.asarray(new)[where.learner, where.number]
        return flat

    def _run(
        self, trials: Trials, place: np.ndarray, distinct: np.ndarray
    ) -> tuple[Forecasts, Any]:
        """Filter flat trials of learners, in pieces of bounded size, long learners apart."""
        lengths = np.bincount(place, minlength=len(distinct))
        last = jax.tree.map(lambda x: x[distinct], self.beliefs)
        flat = Forecasts(*(np.zeros(len(place), self.precision) for _ in Forecasts._fields))
        if len(distinct) == 1:
            pieces = [np.zeros(1, np.int64)]
        else:
            pieces = list(_pieces(lengths))
        start = np.r_[0, np.cumsum(lengths)]
        by_learner = np.argsort(place, kind="stable")
        for chosen in pieces:
            rows = np.concatenate([by_learner[start[c] : start[c + 1]] for c in chosen])
            inner = np.repeat(np.arange(len(chosen)), lengths[chosen])
            part = Trials(*(x[rows] for x in trials))
            padded, where = padded_trials(part, inner, self.structure, self.precision)
            num = padded.real.shape[0]
            filled = np.r_[chosen, np.full(num - len(chosen), chosen[0])]
            beliefs = jax.tree.map(lambda x, f=filled: x[f], last)
            beliefs, forecasts = self.filtered(beliefs, padded)
            for kept, new in zip(flat, forecasts, strict=True):
                kept[rows] = np.asarray(new)[where.learner, where.number]
            for kept, new in zip(jax.tree.leaves(last), jax.tree.leaves(beliefs), strict=True):
                kept[chosen] = np.asarray(new)[: len(chosen)]
        return flat, last

    def check_later(self, rows: Interactions, learner: np.ndarray, shown: Any = str) -> None:
        """Refuse rows before the last one of their learner."""
        last = self.exposures.last[learner]
        early = rows.time < last
        if early.any():
            place = int(np.argmax(early))
            raise InvalidDataError(
                f"row {rows.order[place]} is at time {shown(rows.time[place])}, before the "
                f"last row of its learner, which ended at {shown(last[place])}: rows must go "
                "on in time. Call fit on all rows of these learners, or, if they are other "
                "learners, give them labels of their own"
            )

    @property
    def rows(self) -> Interactions:
        """All rows so far."""
        if len(self._parts) > 1:
            width = max(part.kc.shape[1] for part in self._parts)
            wide = [part._replace(kc=_widened(part.kc, width)) for part in self._parts]
            self._parts = [Interactions(*map(np.concatenate, zip(*wide, strict=True)))]
        return self._parts[0]

    def restore(self, rows: Interactions, log_evidence: float) -> None:
        """Take rows to be what led to the beliefs."""
        self._parts, self.log_evidence = [rows], log_evidence

    def rows_of(self, learner: int) -> Interactions:
        """Return the rows of one learner."""
        rows = self.rows
        return Interactions(*(column[rows.learner == learner] for column in rows))


def _widened(kc: np.ndarray, width: int) -> np.ndarray:
    return np.pad(kc, ((0, 0), (0, width - kc.shape[1])), constant_values=-1)


def _pieces(lengths: np.ndarray) -> Any:
    """Yield learners of similar lengths, few enough for one call."""
    order = np.argsort(lengths, kind="stable")
    sizes = np.array([padded_size(int(n)) for n in lengths[order]])
    begin = 0
    while begin < len(order):
        size = sizes[begin]
        most = max(1, min(_MAX_LEARNERS, _MAX_CELLS // int(size)))
        end = min(begin + most, int(np.searchsorted(sizes, size, side="right")))
        yield order[begin:end]
        begin = end
