"""The resampling schemes by name."""

from __future__ import annotations

from bayeskit.accel.resampling.killing import KILLING
from bayeskit.accel.resampling.multinomial import MULTINOMIAL
from bayeskit.accel.resampling.residual import RESIDUAL, RESIDUAL_MULTINOMIAL
from bayeskit.accel.resampling.scheme import Scheme
from bayeskit.accel.resampling.ssp import SSP
from bayeskit.accel.resampling.stratified import STRATIFIED
from bayeskit.accel.resampling.systematic import SYSTEMATIC

__all__ = ["SCHEMES", "SCHEME_NAMES", "keeps_number"]

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        SYSTEMATIC,
        STRATIFIED,
        MULTINOMIAL,
        RESIDUAL,
        RESIDUAL_MULTINOMIAL,
        SSP,
        KILLING,
    )
}

#: All that :func:`bayeskit.inference.resample` takes; ``"rejection"`` is no function of a fixed
#: number of uniforms.
SCHEME_NAMES = (*SCHEMES, "rejection")


def keeps_number(scheme: str) -> bool:
    """Return whether a scheme makes as many offspring as there are particles.

    Parameters
    ----------
    scheme : str
        One of ``SCHEME_NAMES``.

    Returns
    -------
    bool

    Examples
    --------
    >>> from bayeskit import accel
    >>> accel.keeps_number("systematic"), accel.keeps_number("killing")
    (False, True)
    """
    return scheme in SCHEMES and SCHEMES[scheme].keeps_number
