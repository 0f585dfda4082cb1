"""What is to be inferred: targets, and paths that lead to them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit import accel
from bayeskit.errors import ImproperPriorError
from bayeskit.inference.law import Measure, Tagged
from bayeskit.inference.tracing import explained, scalar_density

__all__ = [
    "Density",
    "Path",
    "PointState",
    "Target",
    "TemperedPath",
    "TemperingStage",
    "prior_sampler",
    "safe_dot",
]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["data"],
    meta_fields=[
        "log_density",
        "log_prior",
        "log_likelihood",
        "sample_prior",
        "sample_exact",
        "constrain",
        "has_gradient",
        "prior_takes_data",
        "name",
    ],
)
@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    r"""An unnormalised density :math:`\gamma(x)`, given as functions of one point.

    Either ``log_density``, or ``log_prior`` and ``log_likelihood`` with
    :math:`\gamma(x) = p(x)\,L(x)`. Only the second form has a prior to start from, and hence
    an evidence :math:`Z = \int p L`.

    Parameters
    ----------
    log_density : callable (x, \*data) -> () array, optional
    log_prior : callable (x) -> () array, optional
        Normalised over the support of x; -inf outside.
    log_likelihood : callable (x, \*data) -> () array, optional
    sample_prior : callable (key) -> x, optional
        One draw from ``log_prior``.
    sample_exact : callable (key) -> x, optional
        One exact draw from the normalised target, for validation.
    constrain : callable (x, \*data) -> dict of arrays, optional
        Names the parameters in the user's own coordinates. Default: the entries of a dict
        position, or ``{"x": x}``.
    data : tuple of arrays
        Passed on to the functions as arguments, so that new data of the same shape run
        through the same compiled program.
    has_gradient : bool
        False for integer positions or densities that cannot be differentiated.
    prior_takes_data : bool
        Whether ``log_prior`` and ``sample_prior`` are called with the data as well, for models
        whose prior depends on the shape of the data.
    name : str
        How the normalised target is printed.

    Raises
    ------
    TypeError
        If neither form is complete.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> target = Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    >>> target.components(jnp.array([1.0, 2.0]))
    Array([-2.5], dtype=float32)
    """

    log_density: Callable | None = None
    log_prior: Callable | None = None
    log_likelihood: Callable | None = None
    sample_prior: Callable | None = None
    sample_exact: Callable | None = None
    constrain: Callable | None = None
    data: tuple = ()
    has_gradient: bool = True
    prior_takes_data: bool = False
    name: str = "π"

    def __post_init__(self):
        split_form = self.log_prior is not None and self.log_likelihood is not None
        if (self.log_density is not None) == split_form:
            given = [
                n
                for n in ("log_density", "log_prior", "log_likelihood")
                if getattr(self, n) is not None
            ]
            raise TypeError(
                f"Target got {given or 'no density at all'}: give either log_density, or both "
                "log_prior and log_likelihood"
            )

    @property
    def has_prior(self) -> bool:
        """Whether the density is split into a prior and a likelihood."""
        return self.log_prior is not None

    @property
    def num_components(self) -> int:
        """2 with a prior and a likelihood, else 1."""
        return 2 if self.has_prior else 1

    def components(self, x: Any) -> jax.Array:
        """Return (log_prior, log_likelihood) or (log_density,) at one point."""
        if self.has_prior:
            return jnp.stack(
                [
                    self._value("log_prior", x, self._prior_data),
                    self._value("log_likelihood", x, self.data),
                ]
            )
        return self._value("log_density", x, self.data)[None]

    def _value(self, name: str, x: Any, data: tuple) -> jax.Array:
        """Return one of the functions at a point, checked while it is traced."""
        with explained(name):
            return scalar_density(getattr(self, name)(x, *data), name)

    @property
    def _prior_data(self) -> tuple:
        return self.data if self.prior_takes_data else ()

    def draw_prior(self, key: Any) -> Any:
        """Return one draw from the prior, on any kind of key."""
        try:
            with explained("sample_prior"):
                return self.sample_prior(key, *self._prior_data)  # type: ignore[misc]
        except TypeError as error:
            if "unexpected PRNG key type" not in str(error):
                raise
            raise TypeError(
                "sample_prior draws with jax.random, which does not know the keys by which "
                "many particles are drawn at once: draw through bayeskit.inference.random, "
                "such as random.normal(key, shape)"
            ) from error

    def density(self) -> Density:
        """Return the log density as a sum of its components."""
        return Density(self, jnp.ones(self.num_components))

    @property
    def measure(self) -> Measure:
        """The normalised target, as laws speak of it."""
        return Measure(self.name, owner=self)

    def with_data(self, *data: Any) -> Target:
        """Return the same target for other data."""
        return replace(self, data=data)

    def position_spec(self) -> Any:
        """Return shapes and dtypes of a position, found from ``sample_prior``.

        Raises
        ------
        ImproperPriorError
            Without ``sample_prior``.
        """
        if self.sample_prior is None:
            raise ImproperPriorError(
                f"the target {self.name} has no sample_prior, so there is no prior to start "
                "from and no evidence. Give Target(sample_prior=...), or sample with NUTS from "
                "starting points of your own (initial_positions=...)"
            )
        return _prior_draw.eval_shape(self)

    def vector_dim(self) -> int:
        """Return the dimension of positions that are vectors, found from ``sample_prior``.

        Raises
        ------
        TypeError
            If they are not vectors.
        """
        shape = self.position_spec().shape
        if len(shape) != 1:
            raise TypeError(
                f"positions must be vectors, got shape {shape}: use Target.on_vectors(...) "
                "first"
            )
        return shape[0]

    def on_vectors(self, spec: Any) -> Target:
        """Return this target with positions flattened to one vector.

        Parameters
        ----------
        spec : pytree of arrays or jax.ShapeDtypeStruct
            Shapes and dtypes of a position, as from :meth:`position_spec`.
        """
        layout = _Layout.of(spec)
        if layout.is_vector:
            return replace(self, constrain=self.constrain or _name_vector)
        wrapped: dict[str, Any] = {
            name: _TakesVector(getattr(self, name), layout)
            for name in ("log_density", "log_prior", "log_likelihood")
            if getattr(self, name) is not None
        }
        for name in ("sample_prior", "sample_exact"):
            if getattr(self, name) is not None:
                wrapped[name] = _GivesVector(getattr(self, name))
        wrapped["constrain"] = _TakesVector(self.constrain or _name_tree, layout)
        return replace(self, **wrapped)


# Compiled never; `jax.jit` remembers the shapes of equal targets.
@jax.jit
def _prior_draw(target: Target) -> Any:
    return target.draw_prior(jax.random.key(0))


def _name_vector(x, *data):
    return {"x": x}


def _name_tree(x, *data):
    if isinstance(x, dict):
        return dict(x)
    leaves, _ = jax.tree_util.tree_flatten_with_path(x)
    return {jax.tree_util.keystr(path).strip(".[]'") or "x": leaf for path, leaf in leaves}


class _Layout(NamedTuple):
    """Structure of a position, hashable so that compiled programs are shared."""

    treedef: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]

    @classmethod
    def of(cls, spec: Any) -> _Layout:
        leaves, treedef = jax.tree.flatten(spec)
        return cls(treedef, tuple((tuple(x.shape), str(x.dtype)) for x in leaves))

    @property
    def is_vector(self) -> bool:
        return jax.tree_util.treedef_is_leaf(self.treedef) and len(self.leaves[0][0]) == 1

    def unravel(self, vector: jax.Array) -> Any:
        blank = [jnp.zeros(shape, vector.dtype) for shape, _ in self.leaves]
        return ravel_pytree(jax.tree.unflatten(self.treedef, blank))[1](vector)


@dataclass(frozen=True)
class _TakesVector:
    """A function of a structured position, as a function of the flat vector."""

    function: Callable
    layout: _Layout

    def __call__(self, vector, *data):
        return self.function(self.layout.unravel(vector), *data)


@dataclass(frozen=True)
class _GivesVector:
    """A sampler of structured positions, as a sampler of flat vectors."""

    function: Callable

    def __call__(self, key, *data):
        return ravel_pytree(self.function(key, *data))[0]


def safe_dot(coefficients: jax.Array, components: jax.Array) -> jax.Array:
    """Return the dot product in which 0 times -inf is 0, and NaN anywhere gives -inf."""
    terms = jnp.where(coefficients == 0, 0.0, coefficients * components)
    total = jnp.sum(terms, axis=-1)
    return jnp.where(jnp.isnan(total), -jnp.inf, total)


class Density(NamedTuple):
    r"""A log density :math:`\sum_j c_j \ell_j(x)` with components of a target.

    A kernel caches the components and not the sum, so that a change of temperature makes no
    cached value wrong.

    Parameters
    ----------
    target : Target
    coefficients : (J,) array
        One for each component: (1, λ) of log prior and log-likelihood at inverse temperature λ.

    Examples
    --------
    A quarter of the way from the prior to the posterior, and the gradient there:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_likelihood=lambda x: -2.0 * (x[0] - 1) ** 2,
    ... )
    >>> density = bi.Density(target, jnp.array([1.0, 0.25]))
    >>> x = jnp.array([3.0])
    >>> density.components(x).tolist(), float(density(x))
    ([-4.5, -8.0], -6.5)
    >>> density.components_and_gradient(x)[1].tolist()
    [-5.0]
    """

    target: Target
    coefficients: jax.Array

    def components(self, x: jax.Array) -> jax.Array:
        """Return the components (J,) at ``x``."""
        return self.target.components(x)

    def combine(self, components: jax.Array) -> jax.Array:
        """Return the log density that belongs to cached components; NaN counts as -inf."""
        return safe_dot(self.coefficients.astype(components.dtype), components)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.combine(self.components(x))

    def components_and_gradient(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the components (J,) and the gradient of the log density, one reverse pass."""
        components, pull_back = jax.vjp(self.target.components, x)
        (gradient,) = pull_back(self.coefficients.astype(components.dtype))
        return components, gradient


class PointState(NamedTuple):
    """A position with the cached values that belong to it.

    Parameters
    ----------
    position : (dim,) array
    components : (J,) array
        Components of the log density; the sum depends on the temperature, these do not.
    gradient : (dim,) array or ()
        Gradient of the log density at the temperature it was refreshed for. Populations carry
        the empty tuple: a move computes it for the target it moves on.

    Examples
    --------
    A kernel caches what it needs, and no gradient if it follows none:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> state = bi.MALA().init(jnp.array([1.0, 2.0]), density)
    >>> state.components.tolist(), state.gradient.tolist()
    ([-2.5], [-1.0, -2.0])
    >>> bi.RandomWalk().init(jnp.array([1.0, 2.0]), density).gradient
    ()
    """

    position: jax.Array
    components: jax.Array
    gradient: Any = ()


class TemperingStage(NamedTuple):
    """Where on its path a population stands, and what was tuned on the way.

    Parameters
    ----------
    number : () int32
        Number of stages done.
    previous, current : () arrays
        Place on the path before and after this stage: an inverse temperature in [0, 1] on a
        tempered path, a number of data, a tolerance or a level on others.
    tuning : pytree
        Parameters of the move kernel, frozen while it moves.
    repeats : () int32
        Kernel steps between two kept states, chosen by how the kernel mixes.
    acceptance, correlation : () arrays
        Mean acceptance probability of the last moves; worst correlation, over coordinates and
        the log-likelihood, between a state and the next kept one.
    plan : Plan, optional
        What was chosen for each stage beforehand, where the run is frozen.

    Examples
    --------
    A likelihood of exp(-8) at a particle, and a step from inverse temperature 0.25 to 0.5:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> path = bi.TemperedPath(
    ...     Target(
    ...         log_prior=lambda x: -0.5 * x[0] ** 2,
    ...         log_likelihood=lambda x: -2.0 * (x[0] - 1) ** 2,
    ...         sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     )
    ... )
    >>> stage = path.start()._replace(number=2, previous=0.25, current=0.5)
    >>> particle = bi.PointState(jnp.array([3.0]), path.target.components(jnp.array([3.0])))
    >>> float(path.increment(stage, particle)), bool(path.is_complete(stage))
    (-2.0, False)
    """

    number: Any
    previous: Any
    current: Any
    tuning: Any = None
    repeats: Any = 1
    acceptance: Any = math.nan
    correlation: Any = math.nan
    plan: Any = None


class Path:
    r"""Measures :math:`\gamma_0, \gamma_1, \ldots` on one space, and a way along them.

    A place on a path is a number, such as an inverse temperature. SMC samplers are written for
    any path: they go from ``begin`` to ``end``, either by a fixed ladder of places or by those
    that :meth:`choose` finds for the population at hand.

    A subclass declares ``measure``, ``initial`` and ``increment`` and writes :meth:`at` and
    :meth:`choose`.

    Examples
    --------
    The measures :math:`e^{-c x^2 / 2}` with c from 1 to 4, as far as a fixed ladder needs them:

    >>> from bayeskit import inference as bi
    >>> class Squeezing(bi.Path):
    ...     begin, end = 1.0, 4.0
    ...
    ...     def __init__(self):
    ...         self.measure = bi.Measure("γ", owner=self)
    ...         before, after = self.measure.at("t-1"), self.measure.at("t")
    ...         self.increment = bi.Tagged(self.log_ratio, before, after, "squeezing")
    ...
    ...     def log_ratio(self, stage, x):
    ...         return -0.5 * (stage.current - stage.previous) * x**2
    >>> path = Squeezing()
    >>> path.checked_ladder([1, 2, 4])
    (1.0, 2.0, 4.0)
    >>> path.increment(path.start()._replace(previous=1.0, current=2.0), 3.0)
    -4.5
    """

    #: What a place is called, in records of a run and in messages.
    coordinate: str = "place"
    begin: float = 0.0
    end: float = 1.0
    target: Target
    measure: Measure
    increment: Tagged

    @property
    def initial(self) -> Tagged:
        r"""Sampler of one particle of :math:`\gamma_0`."""
        raise NotImplementedError

    def at(self, stage: TemperingStage) -> Any:
        """Return the log density at the current place of a stage."""
        raise NotImplementedError

    def choose(self, population: Any, fraction: float) -> jax.Array:
        """Return the next place for a weighted population."""
        raise NotImplementedError

    def start(self, tuning: Any = None) -> TemperingStage:
        """Return the stage at the beginning, with the tuning that moves start from."""
        # NumPy arrays take the precision of the program that runs them, not of the line that
        # made them: temperatures rounded to float32 would break identities in float64.
        place, unknown = np.asarray(self.begin), np.full((), np.nan)
        return TemperingStage(
            np.zeros((), np.int32),
            place,
            place,
            tuning,
            repeats=np.ones((), np.int32),
            acceptance=unknown,
            correlation=unknown,
        )

    def is_complete(self, stage: TemperingStage) -> jax.Array:
        """Return True once the end is reached."""
        if self.end > self.begin:
            return stage.current >= self.end
        return stage.current <= self.end

    def checked_ladder(self, ladder: Any) -> tuple[float, ...]:
        """Return a ladder as numbers, if it leads from the beginning to the end.

        Raises
        ------
        ValueError
            For a ladder that does not, or that has a step in the wrong direction.
        """
        ladder = tuple(float(place) for place in ladder)
        sign = 1.0 if self.end > self.begin else -1.0
        monotone = all(sign * a < sign * b for a, b in itertools.pairwise(ladder))
        if not monotone or ladder[:1] != (self.begin,) or ladder[-1] != self.end:
            direction = "increase" if sign > 0 else "decrease"
            raise ValueError(
                f"ladder must {direction} strictly from {self.begin:g} to {self.end:g}, got "
                f"{ladder if len(ladder) < 8 else (*ladder[:3], '...', *ladder[-3:])}"
            )
        return ladder

    def shortfall(self, stage: TemperingStage) -> str | None:
        """Return what to say of a run that ended at this stage short of the end, else None."""
        if bool(self.is_complete(stage)):
            return None
        return (
            f"the {self.coordinate.replace('_', ' ')} stands at {float(stage.current):.4g} "
            f"after {int(stage.number)} stages and did not reach {self.end:g}. Take more "
            "particles, or moves that mix better, so that each stage gets further, or allow "
            "more stages"
        )


class TemperedPath(Path):
    r"""The path :math:`\gamma_\lambda(x) = p(x)\,L(x)^\lambda`, from prior to posterior.

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior

    Raises
    ------
    ImproperPriorError
        If the target has no prior to start from.

    Examples
    --------
    Prior, half-way and posterior at a point with log prior -2 and log-likelihood -6:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> path = bi.TemperedPath(
    ...     Target(
    ...         log_prior=lambda x: -0.5 * x[0] ** 2,
    ...         log_likelihood=lambda x: -1.5 * x[0] ** 2,
    ...         sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     )
    ... )
    >>> [
    ...     float(path.at(path.start()._replace(current=temperature))(jnp.array([2.0])))
    ...     for temperature in (0.0, 0.5, 1.0)
    ... ]
    [-2.0, -5.0, -8.0]
    """

    coordinate = "inverse_temperature"

    def __init__(self, target: Target):
        if not target.has_prior or target.sample_prior is None:
            raise ImproperPriorError(
                f"the target {target.name} needs log_prior, log_likelihood and sample_prior to "
                "be tempered from the prior; this one is given as "
                + ("a log_density alone" if not target.has_prior else "no sample_prior")
            )
        self.target = target
        self.measure = Measure(f"{target.name}_λ", owner=self)
        self.increment = Tagged(
            self._increment, self.measure.at("t-1"), self.measure.at("t"), "likelihood^Δλ"
        )

    @staticmethod
    def _increment(stage: TemperingStage, particle: Any) -> jax.Array:
        difference = stage.current - stage.previous
        # A NaN passes through: weighing counts it and gives it weight zero.
        return jnp.where(difference == 0, 0.0, difference * particle.components[1])

    def at(self, stage: TemperingStage) -> Density:
        """Return the log density at the current inverse temperature of a stage."""
        one = jnp.ones_like(stage.current)
        return Density(self.target, jnp.stack([one, stage.current]))

    def choose(self, population: Any, fraction: float) -> jax.Array:
        """Return the inverse temperature at which the effective sample size is a fraction."""
        current = population.stage.current
        log_likelihood = population.particles.components[:, 1]
        # A likelihood that is not a number counts as zero here; weighing counts how many are.
        chosen = accel.temper_step(
            log_likelihood, population.log_weights, current, fraction, nan="drop"
        )
        # No step is found only if no likelihood is finite: go to the end, so that weighing
        # shows an evidence of zero instead of standing still for ever.
        return jnp.where(chosen > current, chosen, 1.0)

    @property
    def initial(self) -> Tagged:
        """Sampler of one particle: a prior draw with the components of its density."""
        return prior_sampler(self.target, self.measure.at("0"))


def prior_sampler(target: Any, measure: Measure) -> Tagged:
    """Return the sampler of prior draws, with their components, as the start of a path."""

    def sample(key):
        position = target.draw_prior(key)
        return PointState(position, target.components(position))

    return Tagged(sample, measure, measure, "the prior")
