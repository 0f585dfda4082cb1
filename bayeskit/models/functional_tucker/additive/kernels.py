"""Covariance functions of one coordinate (private, until the Markov kernels are there)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl


class Kernel:
    def __add__(self, other):
        return Sum(self, other)

    def __mul__(self, other):
        return Product(self, other)


def _register(cls):
    cls = dataclass(frozen=True)(cls)
    fields = list(cls.__dataclass_fields__)
    data = [f for f in fields if f not in ("period", "num_harmonics")]
    return jax.tree_util.register_dataclass(
        cls, data_fields=data, meta_fields=[f for f in fields if f not in data]
    )


@_register
class Sum(Kernel):
    first: Any
    second: Any

    def covariance(self, x, z):
        return self.first.covariance(x, z) + self.second.covariance(x, z)


@_register
class Product(Kernel):
    first: Any
    second: Any

    def covariance(self, x, z):
        return self.first.covariance(x, z) * self.second.covariance(x, z)


@_register
class Matern12(Kernel):
    variance: Any = None
    lengthscale: Any = None

    def covariance(self, x, z):
        d = jnp.abs(x[..., :, None] - z[..., None, :])
        return self.variance * jnp.exp(-d / self.lengthscale)

    def state_space(self, gaps):
        A = jnp.exp(-gaps / self.lengthscale)[:, None, None]
        Q = -self.variance * jnp.expm1(-2 * gaps / self.lengthscale)[:, None, None]
        return A, Q, jnp.ones((1, 1)) * self.variance, jnp.ones(1)


@_register
class Matern32(Kernel):
    variance: Any = None
    lengthscale: Any = None

    def covariance(self, x, z):
        d = jnp.abs(x[..., :, None] - z[..., None, :]) * jnp.sqrt(3.0) / self.lengthscale
        return self.variance * (1 + d) * jnp.exp(-d)

    def state_space(self, gaps):
        u = jnp.sqrt(3.0) / self.lengthscale * gaps
        A = jnp.exp(-u)[:, None, None] * jnp.moveaxis(
            jnp.array([[1 + u, u], [-u, 1 - u]]), -1, 0
        )
        P = jnp.eye(2) * self.variance
        Q = P - A @ P @ jnp.swapaxes(A, 1, 2)
        return A, Q, P, jnp.array([1.0, 0.0])


@_register
class White(Kernel):
    variance: Any = None

    def covariance(self, x, z):
        return self.variance * (x[..., :, None] == z[..., None, :])

    def state_space(self, gaps):
        A = jnp.where(gaps > 0, 0.0, 1.0)[:, None, None]
        return A, (1 - A) * self.variance, jnp.ones((1, 1)) * self.variance, jnp.ones(1)


@_register
class Periodic(Kernel):
    variance: Any = None
    lengthscale: Any = None
    period: float = 1.0
    num_harmonics: int = 8

    def covariance(self, x, z):
        F, G = self.features(x), self.features(z)
        return jnp.einsum("...ir,...jr,r->...ij", F, G, self.feature_variances())

    def features(self, x):
        angle = 2 * jnp.pi / self.period * x[..., None] * jnp.arange(self.num_harmonics + 1)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle[..., 1:])], -1)

    def feature_variances(self):
        # exp(z cos) = sum_j: by a fine trapezoid, exact to rounding
        z = self.lengthscale**-2
        t = 2 * jnp.pi * jnp.arange(128) / 128
        f = jnp.exp(z * (jnp.cos(t) - 1))
        c = jnp.cos(t * jnp.arange(self.num_harmonics + 1)[:, None]) @ f / 128
        c = c.at[1:].multiply(2)
        c = c / jnp.sum(c)
        return self.variance * jnp.concatenate([c, c[1:]])


def summands(kernel):
    if isinstance(kernel, Sum):
        return summands(kernel.first) + summands(kernel.second)
    return [kernel]


def state_space_of_sum(kernels, gaps):
    parts = [k.state_space(gaps) for k in kernels]
    block = jax.vmap(lambda *m: jsl.block_diag(*m))
    return (
        block(*[p[0] for p in parts]),
        block(*[p[1] for p in parts]),
        jsl.block_diag(*[p[2] for p in parts]),
        jnp.concatenate([p[3] for p in parts]),
    )
