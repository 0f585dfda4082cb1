"""What a planted bug is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bayeskit.validation import Report


@dataclass(frozen=True)
class Mutant:
    """A mistake, and the checks that look for it.

    Parameters
    ----------
    number : int
        1 to 97, in the order of the documentation page.
    name : str
        The mistake in a few words: what the wrong code does.
    family : str
        Heading of the documentation page.
    checks : dict of str to callable (planted) -> Report
        By the name of the kind of check, one of :data:`CHECKS`. Each calls the validator once,
        on the right code with ``planted=False`` and on the wrong code with ``planted=True``.
        A call that refuses to run (a mismatch of laws, a key used twice) raises; that counts as
        found only for ``"build"`` and ``"keys"``.
    found_by : tuple of str
        The checks that find it; the others look and are known to be blind to it.
    """

    number: int
    name: str
    family: str
    checks: dict[str, Callable[[bool], Report]]
    found_by: tuple[str, ...]


CHECKS = (
    "build",  # the composition of laws refuses it
    "keys",  # a key is used twice, or a draw hides inside a raw transformation
    "exact",  # every path enumerated
    "sampled",  # the same finite code with real random numbers
    "quadrature",
    "pointwise",  # identities that hold at every point
    "exact start",  # one step from exact draws
    "ranks",
    "joint",  # exact draws of parameters and data together
    "calibration",  # ranks through a whole fit
    "evidence",  # the mean of the evidence estimate
    "same law",  # draws of two implementations
    "same law, exact",  # their laws, every path enumerated
    "growth",
    "scale",  # a million particles
)
# Those that look at real draws of the code.
SAMPLING = (
    "sampled",
    "exact start",
    "ranks",
    "joint",
    "calibration",
    "evidence",
    "same law",
    "growth",
    "scale",
)
