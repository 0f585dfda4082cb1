r"""Integrate a kernel on the line: its law to many digits, without chance.

A step of a kernel is a function of its start x, of the uniform and normal numbers that it draws
and of choices with finitely many outcomes. The choices are enumerated; x and the continuous
draws are integrated together by a rank-1 lattice, so that for smooth test functions f and g

.. math:: F(f, g) = \int \pi(dx) \int K(x, dx')\, f(x)\, g(x')

is a weighted sum over a fixed set of points. Invariance says :math:`F(1, f) = F(f, 1)`,
reversibility :math:`F(f, g) = F(g, f)`. The same sums on a coarser lattice tell how large the
error of the integration is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import BayeskitError, UnenumerableDrawError
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.kernels.base import Tuning
from bayeskit.inference.keys import EnumerationKey, Tape
from bayeskit.inference.law import REVERSIBLE
from bayeskit.inference.measure import Target
from bayeskit.validation.battery import BatteryModel, battery
from bayeskit.validation.exact_checks import claimed_law
from bayeskit.validation.features import robust_scale
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.pointwise import largest_difference
from bayeskit.validation.report import Check, Power
from bayeskit.validation.statistical import default_tuning

__all__ = ["validate_by_quadrature"]

# Sizes and generators of two lattices: point i of n has the coordinates frac(i a^j / n). The
# generators have the smallest error for smooth periodic functions in 2 to 8 dimensions, of some
# hundred tried.
_LATTICES = ((1_048_573, 302_312), (2_097_143, 508_176))
_CHUNK = 2**14
# Continuous numbers that one step may draw, and combinations of its other draws.
_MAX_COORDINATES = 12
_MAX_OUTCOMES = 64
# A pass needs a discrepancy below the larger of _TOLERANCE and _SAFETY times the estimated
# error, and would say little above _TOO_COARSE; a failure needs twice that and _DEFECT.
_TOLERANCE = 1e-6
_DEFECT = 1e-5
_SAFETY = 5.0
_TOO_COARSE = 1e-3
_CACHE_TOLERANCE = 1e-8
# A kernel that hardly moves would pass whatever it does.
_LEAST_MOVED = 0.01
# The target is cut off where what lies beyond has about this mass.
_TAIL = 1e-9
_NUM_PILOT = 2**13


class _Smooth(NamedTuple):
    """A test function of a standardised coordinate, in words."""

    words: str
    function: Callable[[jax.Array], jax.Array]


# Bounded, so that tails do no harm; they look at the centre, at either side and either tail.
_FUNCTIONS = (
    _Smooth("tanh(t)", jnp.tanh),
    _Smooth("tanh(2 (t - 1))", lambda t: jnp.tanh(2.0 * (t - 1.0))),
    _Smooth("tanh(2 (t + 1))", lambda t: jnp.tanh(2.0 * (t + 1.0))),
    _Smooth("exp(-t² / 2)", lambda t: jnp.exp(-0.5 * t**2)),
    _Smooth("exp(-2 (t - 1)²)", lambda t: jnp.exp(-2.0 * (t - 1.0) ** 2)),
    _Smooth("exp(-2 (t + 1)²)", lambda t: jnp.exp(-2.0 * (t + 1.0) ** 2)),
    _Smooth("a step near t = 2", lambda t: jax.nn.sigmoid(4.0 * (t - 2.0))),
    _Smooth("a step near t = -2", lambda t: jax.nn.sigmoid(-4.0 * (t + 2.0))),
    _Smooth("cos(t)", jnp.cos),
    _Smooth("sin(2 t)", lambda t: jnp.sin(2.0 * t)),
    _Smooth("cos(3 t)", lambda t: jnp.cos(3.0 * t)),
)


# ---------------------------------------------------------------- points for draws


def _periodic(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Map (0, 1) to itself with weights that vanish at both ends; lattices need periodicity."""
    return u**2 * (3.0 - 2.0 * u), 6.0 * u * (1.0 - u)


def _normal_quantile(v: jax.Array) -> jax.Array:
    return jax.scipy.special.ndtri(jnp.clip(v, 1e-17, 1.0 - 2.0**-53))


class _LatticeRule:
    """What a tape reads its continuous draws from: the coordinates (num,) of one point."""

    def __init__(self, coordinates: jax.Array):
        self.coordinates = coordinates
        self.num_read = 0

    def _next(self, num: int) -> jax.Array:
        start, self.num_read = self.num_read, self.num_read + num
        if self.num_read > len(self.coordinates):
            raise UnenumerableDrawError(
                f"one step draws more than {len(self.coordinates)} continuous numbers, too "
                "many dimensions for quadrature: validate statistically, with level='quick'"
            )
        return self.coordinates[start : self.num_read]

    def _weighted(self, tape: Tape, num: int) -> jax.Array:
        value, weight = _periodic(self._next(num))
        tape.log_probability += jnp.sum(jnp.log(weight))
        return value

    def uniform(self, tape: Tape, shape: tuple[int, ...]) -> jax.Array:
        """Return uniform numbers."""
        return self._weighted(tape, math.prod(shape)).reshape(shape)

    def normal(self, tape: Tape, shape: tuple[int, ...]) -> jax.Array:
        """Return standard normal numbers; many at once as a length and a direction.

        Most kernels use the length alone, as in a sum of squares: the direction then costs
        no accuracy, whatever its dimension.
        """
        num = math.prod(shape)
        if num < 2:
            return _normal_quantile(self._weighted(tape, num)).reshape(shape)
        # The density of the length, cut off where nothing is left.
        longest = math.sqrt(num) + 8.0
        length = longest * self._weighted(tape, 1)[0]
        log_norm = (0.5 * num - 1.0) * math.log(2.0) + math.lgamma(0.5 * num)
        log_density = (num - 1.0) * jnp.log(length) - 0.5 * length**2 - log_norm
        tape.log_probability += log_density + math.log(longest)
        direction = _normal_quantile(self._next(num))
        return (length * direction / jnp.linalg.norm(direction)).reshape(shape)


class _Draws(NamedTuple):
    """How many continuous numbers a step draws, and the outcomes of its other draws."""

    num_coordinates: int
    digits: np.ndarray  # (combinations, draws)


def _tuning_for(kernel: Any, x: np.ndarray) -> Any:
    """Return the default tuning of a kernel, moved to where the target lies."""
    tuning = default_tuning(kernel, 1)
    if not isinstance(tuning, Tuning):
        return tuning
    return tuning._replace(mean=jnp.asarray(x.mean(axis=0)), factor=jnp.asarray(x.std(axis=0)))


def _recorded_draws(kernel: Any, target: Target, tuning: Any) -> _Draws:
    """Return what one step draws, or say why quadrature cannot follow it."""
    rule = _LatticeRule(jnp.full(_MAX_COORDINATES, 0.5))
    tape = Tape(rule=rule)

    def step(x):
        density = target.density()
        return kernel.step(EnumerationKey(tape), kernel.init(x, density), density, tuning)[0]

    try:
        jax.eval_shape(step, jax.ShapeDtypeStruct((1,), jnp.result_type(float)))
    except UnenumerableDrawError as error:
        raise UnenumerableDrawError(
            f"{name_of(kernel)} cannot be integrated by quadrature: {error}. Leave out "
            "level='quadrature' to test it statistically"
        ) from None
    except TypeError as error:
        if isinstance(error, BayeskitError) or "EnumerationKey" not in str(error):
            raise
        raise UnenumerableDrawError(
            f"{name_of(kernel)} draws outside of bayeskit.inference.random, where quadrature "
            f"cannot see it ({str(error).splitlines()[0]}). Draw through its primitives, or "
            "leave out level='quadrature' to test it statistically"
        ) from None
    outcomes = math.prod(tape.sizes)
    if outcomes > _MAX_OUTCOMES:
        raise UnenumerableDrawError(
            f"one step of {name_of(kernel)} has {outcomes} combinations of choices at each of "
            f"{_LATTICES[-1][0]} points, more than {_MAX_OUTCOMES}: validate statistically, "
            "with level='quick'"
        )
    digits = np.array(list(itertools.product(*map(range, tape.sizes))), np.int32)
    return _Draws(rule.num_read, digits)


# ---------------------------------------------------------------- the target on its range


class _Range(NamedTuple):
    """Where a target lies."""

    low: float
    high: float
    location: float
    scale: float
    log_top: float


def _range_of(target: Target, x: np.ndarray) -> _Range:
    """Return the range of a target outside of which there is next to nothing."""
    density = target.density()
    log_density = jax.jit(lambda position: density(position[None]))
    middle, width = (float(value) for value in robust_scale(x))
    values = np.asarray(jax.vmap(log_density)(x))
    if not np.isfinite(values).all():
        raise ValueError(
            f"the log density of {target.name} is {values[~np.isfinite(values)][0]} at one of "
            "its own exact draws: sample_exact and the density do not belong together"
        )
    top = float(values.max())

    def is_inside(distance, sign):
        mass = float(log_density(jnp.asarray(middle + sign * distance))) - top
        return mass + math.log(max(distance / width, 1.0)) > math.log(_TAIL)

    def edge(sign, farthest):
        inside = abs(farthest - middle)
        outside = max(2.0 * inside, width)
        while is_inside(outside, sign):
            inside, outside = outside, 2.0 * outside
            if outside > 1e6 * width:
                raise ValueError(
                    f"{target.name} has tails too heavy to integrate: validate statistically"
                )
        for _ in range(60):
            half = 0.5 * (inside + outside)
            inside, outside = (half, outside) if is_inside(half, sign) else (inside, half)
        return middle + sign * inside

    return _Range(edge(-1.0, x.min()), edge(1.0, x.max()), middle, width, top)


# ---------------------------------------------------------------- the sums


class _Sums(NamedTuple):
    flows: Any  # (functions, functions): F(f, g), with f = 1 first
    cache_error: Any
    lost: Any  # mass of the steps that end at no finite position, or where the density is NaN
    moved: Any  # mass of the steps that end elsewhere


@quick_jit(static_argnames="kernel")
def _chunk_sums(points, counted, digits, tuning, target, range_, kernel) -> _Sums:
    density = target.density()

    def values(x):
        t = (x - range_.location) / range_.scale
        return jnp.stack([jnp.ones_like(t), *(f(t) for _, f in _FUNCTIONS)], axis=-1)

    def one(point):
        place, weight = _periodic(point[0])
        x = range_.low + (range_.high - range_.low) * place
        log_mass = jnp.log(weight) + density(x[None]) - range_.log_top

        def path(outcome):
            tape = Tape(outcome, rule=_LatticeRule(point[1:]))
            start = kernel.init(x[None], density)
            end, _ = kernel.step(EnumerationKey(tape), start, density, tuning)
            error = largest_difference(end, kernel.refresh(end, density))
            has_nan = jnp.any(jnp.isnan(density.components(end.position)))
            usable = jnp.isfinite(end.position[0]) & ~has_nan
            return end.position[0], usable, log_mass + tape.log_probability, error

        return x, *jax.vmap(path)(digits)

    x, end, usable, log_mass, error = jax.vmap(one)(points)
    mass = jnp.where(counted[:, None], jnp.exp(log_mass), 0.0)
    alive, finite = mass > 0.0, jnp.isfinite(end)
    lost = jnp.sum(jnp.where(usable, 0.0, mass))
    # What has no mass may be NaN, which times zero would not be zero.
    end = jnp.where(alive & finite, end, x[:, None])
    arrived = jnp.einsum("np,npf->nf", mass, values(end))
    moved = jnp.sum(jnp.where(end == x[:, None], 0.0, mass))
    error = jnp.max(jnp.where(alive & usable, error, 0.0))
    return _Sums(values(x).T @ arrived, error, lost, moved)


def _lattice_sums(kernel, target, tuning, draws, range_, lattice) -> _Sums:
    """Return the sums over a whole lattice, relative to the mass of the target."""
    size, generator = lattice
    powers = [pow(generator, j, size) for j in range(1 + draws.num_coordinates)]
    pieces = []
    for first in range(0, size, _CHUNK):
        number = np.arange(first, first + _CHUNK)
        # Half a point off zero, where the weights of the periodic map vanish.
        points = (number[:, None] * np.array(powers, np.int64) % size + 0.5) / size
        counted = number < size
        pieces.append(
            _chunk_sums(points, counted, draws.digits, tuning, target, range_, kernel)
        )
    flows = np.sum([piece.flows for piece in pieces], axis=0)
    cache_error = np.max([piece.cache_error for piece in pieces])
    lost = sum(float(piece.lost) for piece in pieces) / flows[0, 0]
    moved = sum(float(piece.moved) for piece in pieces) / flows[0, 0]
    return _Sums(flows / flows[0, 0], cache_error, lost, moved)


# ---------------------------------------------------------------- the verdict


class _Integrated(NamedTuple):
    """What quadrature found on one target: its largest discrepancy, and what it would see."""

    verdict: str
    checks: tuple[Check, ...]
    worst: str
    largest: float
    resolution: float


def _integrate(kernel: Any, target: Target, request: Request, reversible: bool) -> _Integrated:
    with jax.enable_x64(True):
        assert target.sample_exact is not None
        keys = jax.random.split(accel.as_key(0), _NUM_PILOT)
        x = np.asarray(jax.jit(jax.vmap(target.sample_exact))(keys), float)
        tuning = request.tuning
        if tuning is None:
            tuning = _tuning_for(kernel, x)
        range_ = _range_of(target, x[:, 0])
        draws = _recorded_draws(kernel, target, tuning)
        coarse, fine = (
            _lattice_sums(kernel, target, tuning, draws, range_, lattice)
            for lattice in _LATTICES
        )
    # Row 0 holds F(1, f) - F(f, 1), the change of the mean of f; the rest are net flows.
    net, coarse_net = (sums.flows - sums.flows.T for sums in (fine, coarse))
    if not reversible:
        net, coarse_net = net[:1], coarse_net[:1]
    error = float(np.abs(net - coarse_net).max())
    tolerance = max(_TOLERANCE, _SAFETY * error)
    defect = max(_DEFECT, 2.0 * tolerance)
    unit = f"t = (x - {range_.location:.3g}) / {range_.scale:.3g}"
    checks = [
        Check(
            name="positions stay finite",
            passed=fine.lost == 0,
            discrepancy=float(fine.lost),
            words=f"with probability {fine.lost:.2g} a step ends at a position that is not "
            "finite or has a NaN density: reject proposals where the density is NaN",
        ),
        Check(
            name="cached values equal recomputed ones",
            passed=bool(fine.cache_error <= _CACHE_TOLERANCE),
            discrepancy=float(fine.cache_error),
            words=f"values cached in the state differ from recomputed ones by "
            f"{fine.cache_error:.2g}: after a step, refresh(state) must equal state",
        ),
    ]
    broken = [check.words for check in checks if not check.passed]
    for (words, _), change in zip(_FUNCTIONS, net[0, 1:], strict=True):
        checks.append(
            Check(
                name=f"the mean of {words}",
                passed=bool(abs(change) <= defect),
                discrepancy=float(abs(change)),
                words=f"one step changes the mean of {words}, {unit}, by {change:.2g} "
                f"(error of the integration about {error:.1g})",
            )
        )
    if reversible:
        place = np.unravel_index(np.argmax(np.abs(net[1:, 1:])), net[1:, 1:].shape)
        flow = float(np.abs(net[1:, 1:]).max())
        names = " and ".join(_FUNCTIONS[i].words for i in place)
        checks.append(
            Check(
                name="each flow equals the flow back",
                passed=flow <= defect,
                discrepancy=flow,
                words=f"the flow between {names}, {unit}, differs from the flow back by "
                f"{flow:.2g} (error of the integration about {error:.1g})",
            )
        )
    laws = checks[2:]
    worst = max(laws, key=lambda check: check.discrepancy or 0.0)
    failed = [check for check in laws if not check.passed]
    if failed:
        # A wrong mean says more than a wrong flow, which it entails.
        means = [check for check in failed if check.name.startswith("the mean")]
        worst = max(means or failed, key=lambda check: check.discrepancy or 0.0)
    largest = float(np.abs(net).max())
    if broken or failed:
        verdict, words = "fail", broken[0] if broken else worst.words
    elif fine.moved < _LEAST_MOVED:
        verdict, words = (
            "inconclusive",
            f"a step moves with probability {fine.moved:.1g} only, so that nothing could be "
            "found: pass tuning= with a smaller step size",
        )
    elif largest <= tolerance <= _TOO_COARSE:
        verdict, words = "pass", f"the largest deviation: {worst.words}"
    else:
        verdict = "inconclusive"
        words = f"the integration is too inexact to tell: {worst.words}"
    labelled = tuple(Check(**{**vars(check), "model": target.name}) for check in checks)
    return _Integrated(verdict, labelled, words, largest, defect)


def validate_by_quadrature(kernel: Any, request: Request) -> Findings:
    r"""Check a kernel on targets on the line by integration, without sampling.

    For smooth bounded functions f and g, :math:`\pi(Kf) = \pi(f)`, and for a reversible kernel
    :math:`\pi(g\,Kh) = \pi(h\,Kg)`. Two resolutions tell the error of the integration: the
    verdict is ``"fail"`` only for a discrepancy above 1e-5 and ten times that error, and
    ``"pass"`` only below 1e-6 or five times that error, if this is at most 1e-3.

    Parameters
    ----------
    kernel : Kernel
        Draws normals, uniforms and finite choices, the same number at every step.
    request : Request
        With the target, a one-dimensional one with ``sample_exact``, which tells where it
        lies; without, the battery's models on the line.

    Returns
    -------
    Findings

    Raises
    ------
    TypeError, ValueError
        For targets of more dimensions, or without exact draws.
    UnenumerableDrawError
        For a kernel whose draws cannot be replaced by points.

    References
    ----------
    Sloan & Joe (1994), *Lattice methods for multiple integration*.

    Examples
    --------
    >>> from bayeskit.inference import RandomWalk
    >>> from bayeskit.validation import validate
    >>> validate(RandomWalk(), level="quadrature", models="skewed_1d").verdict
    'pass'
    """
    kind = claimed_law(kernel, request.law)
    targets = _targets_on_the_line(request)
    results = {
        target.name: _integrate(kernel, target, request, kind is REVERSIBLE)
        for target in targets
    }
    verdicts = [result.verdict for result in results.values()]
    verdict = next(v for v in ("fail", "inconclusive", "pass") if v in verdicts)
    deciding = {name: r for name, r in results.items() if r.verdict == verdict}
    name, result = max(deciding.items(), key=lambda item: item[1].largest)
    words = f"on {name}, {result.worst}"
    if verdict == "pass":
        words = f"nothing found; {words}"
    resolution = max(result.resolution for result in results.values())
    power = Power(
        resolution,
        1.0,
        resolution,
        (),
        sum(len(result.checks) for result in results.values()),
        f"finds with certainty every change by {resolution:.1g} of the mean of one of "
        f"{len(_FUNCTIONS)} smooth functions between -1 and 1, by one step",
    )
    return Findings(
        verdict,
        name_of(kernel),
        f"{kind}: {kind.statement}, on {', '.join(results)}",
        tuple(check for result in results.values() for check in result.checks),
        words,
        power,
        notes=(f"integrated over {_LATTICES[-1][0]} points and {_LATTICES[0][0]}",),
    )


def _targets_on_the_line(request: Request) -> list[Target]:
    target, models = request.target, request.models
    if target is not None:
        models = [target]
    elif models is None:
        models = battery("line")
    elif isinstance(models, str | BatteryModel):
        models = [models]
    chosen = [battery()[model] if isinstance(model, str) else model for model in models]
    return [
        _on_the_line(model.target if isinstance(model, BatteryModel) else model)
        for model in chosen
    ]


def _on_the_line(target: Any) -> Target:
    """Return a target on vectors of length one, or say why there is none."""
    hint = f"choose one of {sorted(battery('line'))}, or validate statistically"
    if isinstance(target, FeynmanKac) or not isinstance(target, Target):
        raise TypeError(
            f"quadrature needs a Target on the line, got {type(target).__name__}: {hint}"
        )
    if target.sample_exact is None:
        raise ValueError(
            f"the target {target.name} has no sample_exact, from which quadrature learns "
            f"where it lies: give Target(sample_exact=...), or {hint}"
        )
    spec = jax.eval_shape(target.sample_exact, accel.as_key(0))
    leaves = jax.tree.leaves(spec)
    if sum(math.prod(leaf.shape) for leaf in leaves) != 1:
        raise ValueError(
            f"quadrature integrates over the line, and {target.name} has positions of shape "
            f"{[leaf.shape for leaf in leaves]}: {hint}"
        )
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise TypeError(
            f"sample_exact of {target.name} draws {leaves[0].dtype} positions: on a finite "
            "space pass start=Atoms(...), and leave out level='quadrature'"
        )
    return target.on_vectors(spec)
