r"""Resampling: particles with weights become particles with numbers of offspring.

A :class:`Scheme` is a deterministic function of uniforms. All work on the scaled cumulative
weights :math:`R_i` of :func:`bayeskit.accel.offspring.scaled_cdf`, the last of which is ``num``
exactly. With n for ``num`` and uniforms u or :math:`u_m` in [0, 1), m = 0, ..., n - 1:

- systematic: :math:`a_m = \#\{i : R_i \le m + u\}`, one uniform for all;
- stratified: :math:`a_m = \#\{i : R_i \le m + u_m\}`;
- multinomial: :math:`a_m = \#\{i : R_i \le n u_m\}`, in the order of the draws;
- residual: :math:`\lfloor n W_i \rfloor` sure copies of each particle; the remainders
  :math:`n W_i - \lfloor n W_i \rfloor` are resampled by systematic;
- residual_multinomial: the same, remainders by multinomial;
- ssp: the same, remainders by duels, one uniform each;
- killing: particle i is kept with probability :math:`W_i / \max W`, or its slot is drawn.

For every scheme the number of offspring has mean :math:`n W_i`, and a particle of weight zero
has none. Beside them :func:`rejection` looks at ratios of weights only, :func:`threshold` keeps
the heavy particles with their weights, and :func:`transport` moves particles in place of
choosing among them.
"""

from bayeskit.accel.resampling.killing import killing
from bayeskit.accel.resampling.multinomial import multinomial
from bayeskit.accel.resampling.registry import SCHEME_NAMES, SCHEMES, keeps_number
from bayeskit.accel.resampling.rejection import rejection
from bayeskit.accel.resampling.resample_and_gather import resample_and_gather
from bayeskit.accel.resampling.residual import (
    residual,
    residual_multinomial,
)
from bayeskit.accel.resampling.scheme import Ancestors, Scheme
from bayeskit.accel.resampling.ssp import ssp
from bayeskit.accel.resampling.stratified import stratified
from bayeskit.accel.resampling.systematic import systematic
from bayeskit.accel.resampling.threshold import WeightedAncestors, threshold
from bayeskit.accel.resampling.transport import Transported, transport

__all__ = [
    "SCHEMES",
    "SCHEME_NAMES",
    "Ancestors",
    "Scheme",
    "Transported",
    "WeightedAncestors",
    "keeps_number",
    "killing",
    "multinomial",
    "rejection",
    "resample_and_gather",
    "residual",
    "residual_multinomial",
    "ssp",
    "stratified",
    "systematic",
    "threshold",
    "transport",
]
