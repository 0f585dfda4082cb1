"""State-space models: hidden states, what is seen of them, and parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype

from bayeskit.errors import InvalidDataError, UnknownParameterError
from bayeskit.inference import random
from bayeskit.inference.dependence import depends_on
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.guiding import StateMove, fully_seen, without_gaps
from bayeskit.inference.measure import Target
from bayeskit.inference.observing import (
    draw,
    innermost,
    is_dependent,
    is_distribution,
    log_likelihood,
)
from bayeskit.inference.standing_still import UnlessStill
from bayeskit.inference.state_space_checks import (
    check_function,
    check_observations,
    check_parameter,
    check_states,
    optional_names,
)
from bayeskit.inference.tracing import explained

__all__ = ["Rows", "StateSpaceModel"]

_PROPOSALS = ("proposal", "initial_proposal")


class Rows(NamedTuple):
    """Data with one row for each time; what there is none of is None.

    Parameters
    ----------
    y : array (num_steps, ...)
        Observations; NaN where nothing was seen.
    u : array (num_steps, ...)
        Controls.
    dt : array (num_steps,)
        Time since the row before; 0 in the first. 0 in another row is a second observation at
        the same instant: the state does not move.

    Examples
    --------
    >>> import numpy as np
    >>> import numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> from bayeskit import inference as bi
    >>> level = bk.StateSpaceModel(
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t, dt: dist.Normal(x, dt**0.5),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ... )
    >>> rows = bi.Rows(y=np.array([0.3, np.nan, 1.2]), dt=np.array([0.0, 1.0, 2.5]))
    >>> level.feynman_kac(None, rows).num_steps
    3
    """

    y: Any = None
    u: Any = None
    dt: Any = None


class _Parameters(dict):
    """Values by name, which say so where one is missing."""

    def __missing__(self, name):
        raise UnknownParameterError(
            f"the model uses a parameter {name!r}, but params has {sorted(self) or 'none'}: "
            f"add it to StateSpaceModel(params=...), as a number or a prior distribution"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class StateSpaceModel:
    r"""A Markov chain of hidden states, observed with noise.

    .. math::
        x_0 \sim p_0, \qquad x_t \sim m_t(x_{t-1}, \cdot), \qquad y_t \sim g_t(x_t, \cdot)

    The functions return NumPyro distributions and are written for one particle. Each may also
    take the keywords ``u``, the controls of its time, and ``dt``, the time since the row
    before.

    Parameters
    ----------
    initial : callable (params) -> Distribution
        Of :math:`x_0`; or a dict of distributions, for a state with named independent parts.
    transition : callable (params, x, t) -> Distribution
        Of :math:`x_t`, given ``x`` at time t - 1; ``t`` runs from 1.
    observation : callable (params, x, t) -> Distribution
        Of :math:`y_t`, given ``x`` at time t.
    params : dict, optional
        A number, an array or a prior distribution by name. The functions get the values as
        ``params["name"]``.
    proposal : callable (params, x, t, y) -> Distribution, optional
        Of :math:`x_t`, given ``x`` at time t - 1 and the observation ``y`` of time t: where a
        filter shall look for states, in place of the transition. The weights make up for it.
    initial_proposal : callable (params, y) -> Distribution, optional
        The same for :math:`x_0`.
    name : str

    Raises
    ------
    TypeError
        If a function cannot be called like this, or a parameter is neither number nor prior.
    ValueError
        For a discrete or improper prior.

    Notes
    -----
    An entry of y that is NaN was not seen and tells nothing: its factor is 1. Coordinates that
    are independent given the state drop out one by one, those of a multivariate normal are
    marginalised; of other vector-valued families whole rows may be missing.

    With a proposal q particles are weighed by :math:`m_t g_t / q_t`, so every engine infers the
    same, with less noise the closer q is to :math:`p(x_t \mid x_{t-1}, y_t)`. It must be
    positive wherever the transition and the likelihood are, and its tails should not be
    lighter. Where y has NaN the transition is taken.

    References
    ----------
    Durbin & Koopman (2012), *Time series analysis by state space methods*; Chopin &
    Papaspiliopoulos (2020), *An introduction to sequential Monte Carlo*.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> level = bk.StateSpaceModel(
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t: dist.Normal(x, p["step"]),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ...     params={"step": dist.HalfNormal(1.0)},
    ... )
    >>> level.free
    ('step',)
    """

    initial: Callable
    transition: Callable
    observation: Callable
    params: Mapping[str, Any] = field(default_factory=dict)
    proposal: Callable | None = None
    initial_proposal: Callable | None = None
    name: str = "model"

    def __post_init__(self):
        for role, names in (
            ("initial", ("params",)),
            ("transition", ("params", "x", "t")),
            ("observation", ("params", "x", "t")),
            ("proposal", ("params", "x", "t", "y")),
            ("initial_proposal", ("params", "y")),
        ):
            function = getattr(self, role)
            if function is not None or role not in _PROPOSALS:
                check_function(function, role, names)
        for name, value in self.params.items():
            check_parameter(name, value)

    def __deepcopy__(self, memo: Any) -> StateSpaceModel:
        # Nothing in it changes, and a copy would share no compiled program.
        return self

    def __getstate__(self) -> dict[str, Any]:
        # What was found out about the model holds functions that no file can.
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    # ------------------------------------------------------------ parameters

    @functools.cached_property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that have a prior."""
        return tuple(name for name, value in self.params.items() if is_distribution(value))

    @functools.cached_property
    def prior(self) -> Target:
        """The prior of the free parameters, on one unconstrained vector."""
        return Target(
            log_density=self._log_prior,
            sample_prior=self._sample_prior,
            constrain=lambda theta, *data: self.constrain(theta),
            name="prior",
        )

    def _unpacked(self, theta: jax.Array) -> list[tuple[str, Any, Any]]:
        """Return name, transform and unconstrained value of each free parameter."""
        from numpyro.distributions.transforms import biject_to

        found, start = [], 0
        for name in self.free:
            transform = biject_to(self.params[name].support)
            shape = transform.inverse_shape(self.params[name].shape())
            size = math.prod(shape)
            found.append((name, transform, theta[start : start + size].reshape(shape)))
            start += size
        return found

    def constrain(self, theta: jax.Array) -> dict[str, jax.Array]:
        """Return the free parameters by name from an unconstrained vector."""
        return {name: transform(z) for name, transform, z in self._unpacked(theta)}

    def parameters(self, theta: jax.Array | None) -> dict[str, Any]:
        """Return all parameters by name, as the functions of the model get them."""
        values = {
            name: jnp.asarray(np.array(value))
            for name, value in self.params.items()
            if name not in self.free
        }
        if self.free:
            values |= self.constrain(theta)  # type: ignore[arg-type]
        return _Parameters(values)

    def _log_prior(self, theta: jax.Array) -> jax.Array:
        total = jnp.zeros((), theta.dtype)
        for name, transform, z in self._unpacked(theta):
            value = transform(z)
            total += jnp.sum(self.params[name].log_prob(value))
            total += jnp.sum(transform.log_abs_det_jacobian(z, value))
        return total

    def _sample_prior(self, key: Any) -> jax.Array:
        from numpyro.distributions.transforms import biject_to

        keys = random.split(key, len(self.free))
        pieces = []
        for one, name in zip(keys, self.free, strict=True):
            prior = self.params[name]
            pieces.append(jnp.ravel(biject_to(prior.support).inv(random.sample(one, prior))))
        return jnp.concatenate(pieces).astype(float)

    # ------------------------------------------------------------ states

    @property
    def _functions(self) -> tuple[Callable, ...]:
        given = (self.proposal, self.initial_proposal)
        return (self.initial, self.transition, self.observation, *filter(None, given))

    def _call(self, role: str, values: Any, row: Rows, *state: Any) -> Any:
        function = getattr(self, role)
        options = {}
        for name in optional_names(function):
            value = getattr(row, name)
            if value is None:
                what = "controls: fit(X=...)" if name == "u" else "times: fit(times=...)"
                raise InvalidDataError(f"{role} takes {name}, so give {what}")
            options[name] = value
        with explained(role):
            made = function(values, *state, **options)
        parts = made.values() if isinstance(made, dict) and role != "observation" else [made]
        for part in parts:
            if not is_distribution(part):
                what = f"{type(part).__name__}: {made!r:.80}"
                if isinstance(part, jax.Array):
                    what = f"an array of shape {part.shape}"
                raise TypeError(
                    f"{role} must return a NumPyro distribution"
                    + ("" if role == "observation" else ", or a dict of them")
                    + f", got {what}"
                )
        return made

    def _example(self, values: Any, row: Rows) -> tuple[Any, Any]:
        """Return structures of a state as drawn at first, and as drawn later from that."""

        def both(key):
            first_key, later_key = jax.random.split(key)
            first = draw(first_key, self._call("initial", values, row))
            later = self._call("transition", values, row, first, jnp.ones((), jnp.int32))
            return first, draw(later_key, later)

        return jax.eval_shape(both, jax.random.key(0))

    def _proposed(self, values: Any, row: Rows, x: Any) -> dict[str, Any]:
        """Return structures of what the proposals draw, by name."""
        x = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), x)
        state = {"proposal": (x, jnp.ones((), jnp.int32)), "initial_proposal": ()}
        given = [role for role in _PROPOSALS if getattr(self, role) and row.y is not None]

        def drawn(role):
            made = self._call(role, values, row, *state[role], row.y)
            return jax.eval_shape(lambda key: draw(key, made), jax.random.key(0))

        return {role: drawn(role) for role in given}

    def feynman_kac(
        self, theta: Any, rows: Rows, first: Any = 0, num_steps: int | None = None
    ) -> FeynmanKac:
        """Return the model given parameters and data, as filters take it.

        Parameters
        ----------
        theta : (dim,) array, or None without free parameters
        rows : Rows
        first : int
            Time of the first of the rows, for data in pieces.
        num_steps : int, optional
            Default: the number of rows.
        """
        values = self.parameters(theta)
        row = lambda t: jax.tree.map(lambda a: jnp.asarray(a)[t - first], rows)
        is_guided = rows.y is not None and any(getattr(self, role) for role in _PROPOSALS)
        seen, filled = (fully_seen(rows.y), without_gaps(rows.y)) if is_guided else (None, None)

        @functools.cache
        def kinds():
            # A whole number at first may be real later, or single precision double.
            start, later = self._example(values, row(first))
            return jax.tree.map(lambda a, b: jnp.promote_types(a.dtype, b.dtype), start, later)

        def drawn(key, distribution):
            cast = lambda x, kind: jnp.asarray(x).astype(kind)
            return jax.tree.map(cast, draw(key, distribution), kinds())

        def move(role, proposing, t, *state):
            made = self._call(role, values, row(t), *state)
            if not is_guided or getattr(self, proposing) is None:
                return StateMove(made, None, None)
            place = t - first
            proposed = self._call(proposing, values, row(t), *state, jnp.asarray(filled)[place])
            return StateMove(made, proposed, jnp.asarray(seen)[place])

        start = functools.partial(move, "initial", "initial_proposal", 0)

        def at(t, x):
            one = move("transition", "proposal", t, x, t)
            if rows.dt is None:
                return one
            return UnlessStill(one, x, jnp.asarray(rows.dt)[t - first] == 0)

        def log_seen(t, x):
            now = row(t)
            return log_likelihood(self._call("observation", values, now, x, t), now.y)

        return FeynmanKac(
            initial=lambda key: start().draw(key, drawn),
            log_g0=lambda x: log_seen(jnp.zeros((), jnp.int32), x) + start().log_ratio(x),
            kernel=lambda key, t, x: at(t, x).draw(key, drawn),
            log_g=lambda t, before, x: log_seen(t, x) + at(t, before).log_ratio(x),
            log_m0=lambda x: start().log_density(x),
            log_m=lambda t, before, x: at(t, before).log_density(x),
            num_steps=len(rows.y) if num_steps is None else num_steps,
            name=self.name,
        )

    def draw_observation(self, key: Any, theta: Any, row: Rows, t: Any, x: Any) -> Any:
        """Draw an observation of the state at time t."""
        made = self._call("observation", self.parameters(theta), row, x, t)
        return random.sample(key, made)

    # ------------------------------------------------------------ checks at the door

    def check(self, rows: Rows) -> None:
        """Refuse data that do not fit the model, without computing anything.

        Raises
        ------
        InvalidDataError
            For observations of another shape than the model's, values outside of the support
            of their family, half of an observation that cannot be marginalised, or controls
            that no function takes.
        TypeError
            For a function that returns no distribution.
        ValueError
            If initial, transition and proposals do not agree about the state.
        """
        if rows.u is not None and not any("u" in optional_names(f) for f in self._functions):
            raise InvalidDataError(
                "X was given, but no function of the model takes u: call fit(y) without X, or "
                "write transition=lambda params, x, t, u: ..."
            )
        found = self.facts(rows)
        check_states("transition", *found["states"])
        for role, state in found["proposed"].items():
            check_states(role, found["states"][0], state)
        check_observations(np.asarray(rows.y), found)

    def facts(self, rows: Rows) -> dict[str, Any]:
        """Return what the functions of the model say about states and observations.

        Nothing is computed: they are traced with abstract values.
        """
        # What is a float follows the precision of the day.
        leaves = tuple(
            None
            if a is None
            else (np.shape(a)[1:], canonicalize_dtype(np.asarray(a).dtype).name)
            for a in rows
        )
        which = (leaves, jnp.result_type(float).name)
        if which not in self._known:
            one = Rows(*(s and jax.ShapeDtypeStruct(*s) for s in leaves))
            self._known[which] = self._look(one)
        return self._known[which]

    @functools.cached_property
    def _known(self) -> dict[Any, dict[str, Any]]:
        return {}

    def is_rigid(self, rows: Rows) -> bool:
        """Return whether free parameters determine a part of the path with certainty."""
        row = jax.tree.map(lambda a: jnp.asarray(a)[0], rows)
        theta = jax.eval_shape(self._sample_prior, jax.random.key(0))
        x = self.facts(rows)["states"][0]

        def fixed(theta, x):
            t = jnp.ones((), jnp.int32)
            values = self.parameters(theta)
            first = self._call("initial", values, row)
            later = self._call("transition", values, row, x, t)
            parts = jax.tree.leaves((first, later), is_leaf=is_distribution)
            deltas = [p for p in map(innermost, parts) if type(p).__name__ == "Delta"]
            return [delta.v for delta in deltas]

        return depends_on(fixed, 0, theta, x)

    def _look(self, one: Rows) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def look(key, row):
            theta = self._sample_prior(key) if self.free else None
            values = self.parameters(theta)
            start, later = self._example(values, row)
            found["states"] = start, later
            found["proposed"] = self._proposed(values, row, start)
            x = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), start)
            seen = self._call("observation", values, row, x, jnp.zeros((), jnp.int32))
            found["shape"], found["dependent"] = seen.shape(), is_dependent(seen)
            support = seen.support
            found["discrete"] = support is not None and support.is_discrete
            found["support"] = _known_support(seen)
            found["family"] = _family(seen)
            return jnp.zeros(())

        jax.eval_shape(look, jax.random.key(0), one)
        return found


def _family(distribution: Any) -> str:
    while type(distribution).__name__ in ("Independent", "ExpandedDistribution"):
        distribution = distribution.base_dist
    return type(distribution).__name__


def _known_support(seen: Any) -> Any:
    """Return the support of one number, if it does not depend on the state; else None."""
    rows = innermost(seen)
    if rows.event_shape or rows.support is None:
        return None
    bounds = jax.tree.leaves(rows.support)
    return None if any(isinstance(b, jax.core.Tracer) for b in bounds) else rows.support
