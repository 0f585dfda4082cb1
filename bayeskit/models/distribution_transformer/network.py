"""The decoder: components attend to each other and to the data, and are changed a little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.tokens import Tokens

__all__ = ["Network", "Widths"]

# Changes of the log of scales are bent off beyond this, softly.
_LARGEST_LOG_SCALE = 4.0


class Widths(NamedTuple):
    """Numbers in a token of a component, of the context, and of a row of each source."""

    components: int
    context: int
    rows: dict[str, int]


@dataclass(frozen=True)
class Network:
    r"""A transformer decoder without positions, pre-norm, whose last layer starts at zero.

    Tokens are the components of the mixture. In each layer they attend to each other and to the
    data, whose order does not matter. The last layer gives a change (see
    :func:`~bayeskit.models.distribution_transformer.frames.change`) of the mixture that it
    starts from, so that without training it returns that mixture.

    Parameters
    ----------
    dim : int
        Of the latent.
    d_model, num_layers, num_heads, d_hidden : int
        Width of tokens, layers, heads, and width of the hidden layer of each block.
    num_named : int
        Components that are told apart by a learned token each; 0 where all are alike, so that a
        permutation of the components of the prior permutes those of the posterior.
    """

    dim: int
    d_model: int = 64
    num_layers: int = 3
    num_heads: int = 4
    d_hidden: int = 128
    num_named: int = 0

    def initial(self, generator: np.random.Generator, widths: Widths) -> dict[str, Any]:
        """Return random weights, drawn on the host."""
        draw = generator
        D, F = self.d_model, self.d_hidden
        weights: dict[str, Any] = {
            "components": _mlp(draw, widths.components, D, D),
            "context": _mlp(draw, widths.context + D * len(widths.rows), D, D),
            "rows": {name: _mlp(draw, width, D, D) for name, width in widths.rows.items()},
            "layers": [
                {
                    "self": _attention(draw, D),
                    "cross": _attention(draw, D),
                    "block": _mlp(draw, D, F, D, scale=0.3),
                    "norms": [_norm(D) for _ in range(3)],
                }
                for _ in range(self.num_layers)
            ],
            "last_norm": _norm(D),
            "head": {
                "w": np.zeros((D, 1 + self.dim + self.dim * (self.dim + 1) // 2)),
                "b": np.zeros(1 + self.dim + self.dim * (self.dim + 1) // 2),
            },
        }
        if self.num_named:
            weights["names"] = generator.standard_normal((self.num_named, D))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)

    def __call__(self, weights: dict[str, Any], tokens: Tokens) -> Mixture:
        """Return the change of each component."""
        rows = {name: _apply(weights["rows"][name], z) for name, z in tokens.rows.items()}
        pooled = [_mean(rows[name], tokens.masks[name]) for name in rows]
        context = _apply(weights["context"], jnp.concatenate([tokens.context, *pooled], -1))
        h = _apply(weights["components"], tokens.components) + context[:, None, :]
        if self.num_named:
            h = h + weights["names"]
        # The context is a token too: there is something to attend to even without data.
        data = jnp.concatenate([context[:, None, :], *rows.values()], axis=1)
        always = jnp.ones((len(h), 1), bool)
        is_data = jnp.concatenate([always, *tokens.masks.values()], axis=1)
        for layer in weights["layers"]:
            a, b, c = layer["norms"]
            x = _normalised(a, h)
            h = h + self._attend(layer["self"], x, x, tokens.is_present)
            h = h + self._attend(layer["cross"], _normalised(b, h), data, is_data)
            h = h + _apply(layer["block"], _normalised(c, h))
        return self._change(_linear(weights["head"], _normalised(weights["last_norm"], h)))

    def _attend(
        self, weights: dict, queries: jax.Array, others: jax.Array, mask: jax.Array
    ) -> jax.Array:
        batch, k, D = queries.shape
        n, H = others.shape[1], self.num_heads
        q = _linear(weights["query"], queries).reshape(batch, k, H, D // H)
        key = _linear(weights["key"], others).reshape(batch, n, H, D // H)
        value = _linear(weights["value"], others).reshape(batch, n, H, D // H)
        scores = jnp.einsum("bkhd,bnhd->bhkn", q, key) * (D // H) ** -0.5
        scores = jnp.where(mask[:, None, None, :], scores, -1e9)
        shares = jax.nn.softmax(scores, axis=-1)
        mixed = jnp.einsum("bhkn,bnhd->bkhd", shares, value).reshape(batch, k, D)
        return _linear(weights["out"], mixed)

    def _change(self, out: jax.Array) -> Mixture:
        d = self.dim
        log_scale = out[..., 1 + d : 1 + 2 * d]
        log_scale = _LARGEST_LOG_SCALE * jnp.tanh(log_scale / _LARGEST_LOG_SCALE)
        row, column = jnp.tril_indices(d, -1)
        factors = jnp.exp(log_scale)[..., None] * jnp.eye(d, dtype=out.dtype)
        factors = factors.at[..., row, column].set(out[..., 1 + 2 * d :])
        return Mixture(out[..., 0], out[..., 1 : 1 + d], factors)


def _dense(
    draw: np.random.Generator, inputs: int, outputs: int, scale: float = 1.0
) -> dict[str, np.ndarray]:
    w = draw.standard_normal((inputs, outputs)) * scale * max(1, inputs) ** -0.5
    return {"w": w, "b": np.zeros(outputs)}


def _mlp(
    draw: np.random.Generator, inputs: int, hidden: int, outputs: int, scale: float = 1.0
) -> dict:
    first = _dense(draw, inputs, hidden)
    return {"first": first, "second": _dense(draw, hidden, outputs, scale)}


def _attention(draw: np.random.Generator, width: int) -> dict:
    parts = {name: _dense(draw, width, width) for name in ("query", "key", "value")}
    return {**parts, "out": _dense(draw, width, width, scale=0.3)}


def _norm(width: int) -> dict[str, np.ndarray]:
    return {"scale": np.ones(width), "shift": np.zeros(width)}


def _linear(weights: dict, x: jax.Array) -> jax.Array:
    # As one product of two matrices: products of many small ones are slow on a CPU.
    flat = x.reshape(-1, x.shape[-1]) @ weights["w"] + weights["b"]
    return flat.reshape(*x.shape[:-1], -1)


def _apply(weights: dict, x: jax.Array) -> jax.Array:
    return _linear(weights["second"], jax.nn.gelu(_linear(weights["first"], x)))


def _normalised(weights: dict, x: jax.Array) -> jax.Array:
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * weights["scale"] + weights["shift"]


def _mean(rows: jax.Array, mask: jax.Array) -> jax.Array:
    weights = mask[..., None].astype(rows.dtype)
    return (weights * rows).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1.0)
