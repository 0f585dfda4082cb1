"""A state-space model with its data, as engines take it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from bayeskit.errors import InvalidDataError
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.measure import Target
from bayeskit.inference.state_space import Rows, StateSpaceModel

__all__ = ["GivenModel", "StateSpaceTarget"]


@dataclass(frozen=True)
class GivenModel:
    """A Feynman-Kac model that the user built, in the place of a state-space model."""

    model: FeynmanKac
    free: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How the model is printed."""
        return self.model.measure.name

    def feynman_kac(
        self, theta: Any, rows: Rows, first: Any = 0, num_steps: int | None = None
    ) -> FeynmanKac:
        """Return the model as it is."""
        return self.model

    def check(self, rows: Rows) -> None:
        """Refuse data, which the model holds already.

        Raises
        ------
        InvalidDataError
        """
        if any(value is not None for value in rows):
            raise InvalidDataError(
                "a FeynmanKac model holds its data already: call fit() without any"
            )


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["rows"], meta_fields=["model"]
)
@dataclass(frozen=True)
class StateSpaceTarget:
    """A state-space model with its data, as engines take it.

    Parameters
    ----------
    model : StateSpaceModel or GivenModel
    rows : Rows

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> from bayeskit import inference as bi
    >>> level = bk.StateSpaceModel(
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t: dist.Normal(x, p["step"]),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ...     params={"step": dist.HalfNormal(1.0)},
    ... )
    >>> target = bi.StateSpaceTarget.of(level, bi.Rows(y=jnp.array([0.3, 0.7, 1.2])))
    >>> target.num_steps, target.prior.vector_dim()
    (3, 1)
    """

    model: Any
    rows: Rows = field(default_factory=Rows)

    @classmethod
    def of(cls, model: Any, rows: Rows | None) -> StateSpaceTarget:
        """Return the target of a StateSpaceModel or FeynmanKac, its data checked.

        Without rows, what needs data is to be added by :meth:`with_rows`.

        Raises
        ------
        TypeError
            For any other model.
        """
        if isinstance(model, FeynmanKac):
            model = GivenModel(model)
        if not isinstance(model, StateSpaceModel | GivenModel):
            raise TypeError(
                f"model must be a StateSpaceModel or a FeynmanKac, got {type(model).__name__}"
            )
        if rows is None:
            return cls(model)
        model.check(rows)
        return cls(model, rows)

    @property
    def num_steps(self) -> int:
        """Number of times."""
        if isinstance(self.model, GivenModel):
            return self.model.model.num_steps
        return len(self.rows.y)

    @property
    def prior(self) -> Target:
        """The prior of the free parameters, on one unconstrained vector."""
        return self.model.prior

    def with_rows(self, rows: Rows) -> StateSpaceTarget:
        """Return the same model for other data."""
        return replace(self, rows=rows)

    def feynman_kac(self, theta: Any = None) -> FeynmanKac:
        """Return the Feynman-Kac model given parameters."""
        return self.model.feynman_kac(theta, self.rows)
