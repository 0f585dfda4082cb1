"""The draws that are kept, chunk by chunk."""

from __future__ import annotations

import numpy as np

from bayeskit.inference.engines.base import constrained_draws
from bayeskit.inference.engines.ensemble.noise import CHUNK
from bayeskit.inference.engines.ensemble.program import Record
from bayeskit.inference.measure import Target

__all__ = ["Kept"]


class Kept:
    """All kept iterations, in the coordinates of the chains and in those of the user.

    Parameters
    ----------
    target : Target on vectors
    """

    def __init__(self, target: Target):
        self._target = target
        self._records: list[Record] = []
        self._draws: list[dict[str, np.ndarray]] = []
        self.num_draws = 0

    def add(self, record: Record) -> None:
        """Append the iterations of one chunk."""
        self._records.append(record)
        self.num_draws += len(record.step_size)

    @property
    def record(self) -> Record:
        """All iterations, (iteration, chain, ...)."""
        if len(self._records) > 1:
            self._records = [Record(*map(np.concatenate, zip(*self._records, strict=True)))]
        return self._records[0]

    @property
    def positions(self) -> np.ndarray:
        """Positions (chain, draw, dim)."""
        return np.moveaxis(self.record.position, 0, 1)

    def draws(self) -> dict[str, np.ndarray]:
        """Return draws (chain, draw, ...) by name; those converted before are not again."""
        done = sum(next(iter(part.values())).shape[1] for part in self._draws)
        positions = self.positions
        for first in range(done, self.num_draws, CHUNK):
            part = positions[:, first : first + CHUNK]
            # Always the same shape, so that one compiled program serves any number of draws.
            missing = CHUNK - part.shape[1]
            padded = np.pad(part, ((0, 0), (0, missing), (0, 0)), mode="edge")
            named = constrained_draws(self._target, padded)
            self._draws.append({name: v[:, : part.shape[1]] for name, v in named.items()})
        if len(self._draws) > 1:
            self._draws = [
                {
                    name: np.concatenate([part[name] for part in self._draws], axis=1)
                    for name in self._draws[0]
                }
            ]
        return self._draws[0]
