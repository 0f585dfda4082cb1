"""Laws of priors from parametric families: inverse gamma, beta, normal and their products."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.distribution_transformer.families import FAMILIES, Family
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture

__all__ = ["ParametricMetaPrior"]

# Hyper-parameters outside are moved to the end: one sample of a heavy tail would otherwise
# decide about a whole batch.
_SMALLEST, _LARGEST = 1e-6, 1e6


class ParametricMetaPrior:
    r"""Priors from a family, with a law of the parameters of the family.

    .. math:: \phi \sim p(\phi), \qquad x \sim p(x \mid \phi)

    Latents with several coordinates are independent a priori, one family for each.

    Parameters
    ----------
    family : str, or dict of (str, dict)
        ``"normal"``, ``"log_normal"``, ``"gamma"``, ``"inverse_gamma"`` or ``"beta"``. For
        several coordinates, from the name of each to its family and parameters.
    **parameters : NumPyro distribution or float
        The law of each parameter of the family; a number is fixed. Densities are those of
        NumPyro: ``concentration`` and ``rate``, ``loc`` and ``scale``, ``concentration1`` and
        ``concentration0``.

    Raises
    ------
    ValueError
        For a family that is not known, or parameters that it does not have.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> law = dist.InverseGamma(4.0, 6.0)
    >>> ParametricMetaPrior("inverse_gamma", concentration=law, rate=law).dim
    1
    >>> two = ParametricMetaPrior(
    ...     {
    ...         "level": ("normal", {"loc": 0.0, "scale": 1.0}),
    ...         "noise": ("inverse_gamma", {"concentration": law, "rate": 1.0}),
    ...     }
    ... )
    >>> two.support
    ('real', 'positive')
    """

    is_mixture = False

    def __init__(self, family: str | Mapping[str, tuple[str, Mapping]], **parameters: Any):
        given = {"x": (family, parameters)} if isinstance(family, str) else dict(family)
        if not isinstance(family, str) and parameters:
            raise ValueError("with a dict of families, parameters belong into the dict")
        self.latents: dict[str, tuple[Family, dict[str, Any]]] = {}
        for latent, (name, laws) in given.items():
            if name not in FAMILIES:
                raise ValueError(
                    f"the family {name!r} of {latent!r} is not known: expected one of "
                    f"{sorted(FAMILIES)}"
                )
            found = FAMILIES[name]
            if set(laws) != set(found.parameters):
                raise ValueError(
                    f"the family {name!r} of {latent!r} has the parameters "
                    f"{sorted(found.parameters)}, got {sorted(laws)}"
                )
            for parameter, kind in found.parameters.items():
                _check_law(f"{parameter} of {latent!r}", laws[parameter], kind == "positive")
            self.latents[latent] = (found, {p: laws[p] for p in found.parameters})
        self._is_single = isinstance(family, str)
        # Of the parameters in order: family, name, whether it is positive.
        self._slots = [
            (latent, name, kind == "positive")
            for latent, (found, _) in self.latents.items()
            for name, kind in found.parameters.items()
        ]

    def _identity(self) -> tuple:
        return tuple(
            (latent, found.name, tuple((p, _law_identity(law)) for p, law in laws.items()))
            for latent, (found, laws) in self.latents.items()
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParametricMetaPrior) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        names = ", ".join(
            f"{latent}: {found.name}" for latent, (found, _) in self.latents.items()
        )
        return f"ParametricMetaPrior({names})"

    @property
    def dim(self) -> int:
        """Number of coordinates of the latent."""
        return len(self.latents)

    @property
    def support(self) -> tuple[str, ...]:
        """Where each coordinate lives."""
        return tuple(found.support for found, _ in self.latents.values())

    @property
    def num_parameters(self) -> int:
        """Number of parameters of all families."""
        return len(self._slots)

    # ------------------------------------------------------------ draws

    def draw(self, key: jax.Array, batch: int) -> jax.Array:
        """Return free parameters (batch, p) of ``batch`` priors: logs of positive ones."""
        columns = []
        for part, (latent, name, is_positive) in zip(
            jax.random.split(key, max(1, len(self._slots))), self._slots, strict=False
        ):
            law = self.latents[latent][1][name]
            if hasattr(law, "sample"):
                value = law.sample(part, (batch,)).astype(jnp.zeros(()).dtype)
            else:
                value = jnp.full((batch,), float(law))
            if is_positive:
                value = jnp.log(jnp.clip(value, _SMALLEST, _LARGEST))
            columns.append(value)
        return jnp.stack(columns, axis=-1)

    def _by_latent(self, free: jax.Array) -> list[tuple[Family, list[jax.Array]]]:
        result, position = [], 0
        for found, _ in self.latents.values():
            values = []
            for kind in found.parameters.values():
                value = free[..., position]
                values.append(jnp.exp(value) if kind == "positive" else value)
                position += 1
            result.append((found, values))
        return result

    def draw_latent(self, key: jax.Array, free: jax.Array) -> jax.Array:
        """Return one latent (batch, d), unconstrained, from each prior."""
        keys = jax.random.split(key, self.dim)
        columns = [
            found.draw(part, free.shape[:-1], free.dtype, *values)
            for part, (found, values) in zip(keys, self._by_latent(free), strict=True)
        ]
        return jnp.stack(columns, axis=-1)

    # ------------------------------------------------------------ what the network is given

    def as_mixture(self, free: jax.Array) -> Mixture:
        """Return one Gaussian with the moments of the unconstrained latent."""
        pairs = [found.moments(*values) for found, values in self._by_latent(free)]
        shape = (*free.shape[:-1], 1, self.dim)
        mean = jnp.stack([jnp.broadcast_to(m, free.shape[:-1]) for m, _ in pairs], axis=-1)
        sd = jnp.stack([jnp.broadcast_to(jnp.sqrt(v), free.shape[:-1]) for _, v in pairs], -1)
        factor = sd[..., None] * jnp.eye(self.dim, dtype=free.dtype)
        return Mixture(
            jnp.zeros(shape[:-1], free.dtype), mean[..., None, :], factor[..., None, :, :]
        )

    @staticmethod
    def parameter_vector(free: jax.Array) -> jax.Array:
        """Return the free parameters themselves."""
        return free

    def log_density(self, free: jax.Array, u: jax.Array) -> jax.Array:
        """Return the log density of u (..., d)."""
        terms = [
            found.log_density(u[..., i], *values)
            for i, (found, values) in enumerate(self._by_latent(free))
        ]
        return sum(terms[1:], terms[0])

    # ------------------------------------------------------------ the range of training

    def feature_names(self) -> list[str]:
        """Return the names of :meth:`features`."""
        return [
            f"{'log ' * is_positive}{name} of {latent}"
            for latent, name, is_positive in self._slots
        ]

    @staticmethod
    def features(free: jax.Array) -> jax.Array:
        """Return the numbers (..., f) whose range in training is remembered."""
        return free

    # ------------------------------------------------------------ the user's priors

    def checked(self, prior: Any) -> tuple[np.ndarray, bool]:
        """Return a user's parameters as free ones (batch, p), and whether it was a batch.

        Raises
        ------
        TypeError
            For anything but a dict.
        InvalidDataError
            For missing or unknown names, and numbers out of their range.
        """
        if not isinstance(prior, Mapping):
            raise TypeError(
                f"prior must be a dict of the parameters of {self!r}, "
                f"got {type(prior).__name__}"
            )
        given = {"x": prior} if self._is_single else dict(prior)
        if set(given) != set(self.latents):
            raise InvalidDataError(
                f"prior must have the latents {sorted(self.latents)}, got {sorted(given)}"
            )
        columns = []
        for latent, (found, _) in self.latents.items():
            if not isinstance(given[latent], Mapping) or set(given[latent]) != set(
                found.parameters
            ):
                raise InvalidDataError(
                    f"the prior of {latent!r}, {found.name}, must be a dict of "
                    f"{sorted(found.parameters)}, got {given[latent]!r:.200}"
                )
            for name, kind in found.parameters.items():
                value = np.asarray(given[latent][name], np.float64)
                if value.ndim > 1 or not np.isfinite(value).all():
                    raise InvalidDataError(
                        f"{name} of the prior of {latent!r} must be a finite number or one "
                        f"for each problem, got shape {value.shape}"
                    )
                if kind == "positive" and not (value > 0).all():
                    raise InvalidDataError(
                        f"{name} of the prior of {latent!r} must be positive, "
                        f"got {value.min():g}"
                    )
                columns.append(np.log(value) if kind == "positive" else value)
        lengths = {c.shape[0] for c in columns if c.ndim}
        if len(lengths) > 1:
            raise InvalidDataError(
                f"the parameters of the prior have different lengths: {sorted(lengths)}"
            )
        batch = lengths.pop() if lengths else 1
        is_batch = any(c.ndim for c in columns)
        return np.stack([np.broadcast_to(c, (batch,)) for c in columns], axis=-1), is_batch

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        laws = {
            latent: [found.name, {p: _plain_law(law) for p, law in laws.items()}]
            for latent, (found, laws) in self.latents.items()
        }
        return {"latents": laws, "is_single": self._is_single}

    @classmethod
    def from_plain(cls, found: Mapping[str, Any]) -> ParametricMetaPrior:
        """Return the law that :meth:`plain` described."""
        latents = {
            latent: (name, {p: _law_from_plain(law) for p, law in laws.items()})
            for latent, (name, laws) in found["latents"].items()
        }
        if found["is_single"]:
            name, laws = latents["x"]
            return cls(name, **laws)
        return cls(latents)


# Laws of hyper-parameters that a file may name.
_LAWS = ("Uniform", "InverseGamma", "Gamma", "LogNormal", "Normal", "HalfNormal", "Exponential",
         "Beta", "LogUniform")  # fmt: skip


def _check_law(name: str, law: Any, is_positive: bool) -> None:
    """Refuse what is neither a distribution to draw from nor a number in range."""
    if hasattr(law, "sample"):
        return
    is_number = isinstance(law, int | float | np.number) and math.isfinite(law)
    if not is_number or (is_positive and law <= 0):
        kind = "positive" if is_positive else "finite"
        raise ValueError(
            f"{name} must be a NumPyro distribution or a {kind} number, got {law!r}"
        )


class _NotInFile:
    """Stands for a law that could not be written down: posteriors do without it."""

    def sample(self, *_: Any) -> Any:
        raise ValueError(
            "the file does not hold the law of a hyper-parameter, which is none of "
            f"{', '.join(_LAWS)} with plain numbers: training and calibration draw from it. "
            "Set meta_prior to that of training first"
        )


def _law_identity(law: Any) -> Any:
    if not hasattr(law, "sample"):
        return float(law)
    described = _plain_law(law)
    return id(law) if described is None else (described[0], tuple(described[1].items()))


def _plain_law(law: Any) -> Any:
    """Return a number, [name, arguments], or None for a law that a file cannot name."""
    if not hasattr(law, "sample"):
        return float(law)
    name = type(law).__name__
    if name not in _LAWS:
        return None
    arguments = {p: getattr(law, p) for p in law.arg_constraints}
    if any(np.ndim(value) for value in arguments.values()):
        return None
    return [name, {p: float(value) for p, value in arguments.items()}]


def _law_from_plain(described: Any) -> Any:
    if not isinstance(described, list):
        return _NotInFile() if described is None else described
    import numpyro.distributions as dist

    name, arguments = described
    if name not in _LAWS:
        raise ValueError(f"the law {name!r} of a hyper-parameter is not known")
    return getattr(dist, name)(**arguments)
