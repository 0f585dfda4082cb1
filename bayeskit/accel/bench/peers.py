"""How other packages compute the same. Each is used if it is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.bench.contender import Contender
from bayeskit.accel.bench.volatility import VolatilityStep

__all__ = [
    "PACKAGES",
    "bootstrap",
    "gather",
    "is_installed",
    "normalize",
    "normals",
    "prefix_sum",
    "resampling",
]

#: What is compared with, beside JAX and NumPy themselves.
PACKAGES = ("blackjax", "particles", "cuthbert", "torch", "cupy")


def is_installed(package: str) -> bool:
    """Return whether a package can be used here; CuPy only beside an accelerator."""
    if package == "cupy" and jax.default_backend() != "gpu":
        return False
    return importlib.util.find_spec(package) is not None


# A function of the imported module makes the contenders.
_Maker = Callable[[Any], Contender]


def _of(package: str, module: str, maker: _Maker) -> list[Contender]:
    return [maker(importlib.import_module(module))] if is_installed(package) else []


def _in_double(key: Any, *arrays: Any) -> tuple:
    return key, *(np.asarray(array, np.float64) for array in arrays)


# ------------------------------------------------------------ torch and CuPy


def _on_torch(module: Any) -> Callable[..., tuple]:
    """Return what turns arrays into tensors, on the accelerator where JAX has one."""
    on_gpu = jax.default_backend() == "gpu" and module.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    module.set_num_threads(1)

    def prepare(*arguments):
        return tuple(
            module.as_tensor(a, device=device) if isinstance(a, np.ndarray) else a
            for a in arguments
        )

    return prepare


def _torch(name: str, function: Callable, **options: Any) -> list[Contender]:
    """``function`` takes the module and the arguments."""

    def make(module):
        def run(*arguments):
            result = function(module, *arguments)
            if result.is_cuda:
                module.cuda.synchronize()
            return result

        prepare = _on_torch(module)
        return Contender("torch", name, run, is_jax=False, prepare=prepare, **options)

    return _of("torch", "torch", make)


def _cupy(name: str, function: Callable) -> list[Contender]:
    def make(module):
        def prepare(*arguments):
            return tuple(
                module.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments
            )

        def run(*arguments):
            result = function(module, *arguments)
            module.cuda.get_current_stream().synchronize()
            return result

        return Contender("cupy", name, run, is_jax=False, prepare=prepare)

    return _of("cupy", "cupy", make)


# ------------------------------------------------------------ weights


def normalize(batched: bool) -> list[Contender]:
    """Normalised weights and the effective sample size."""

    def plain(log_weights):
        weights = jax.nn.softmax(log_weights)
        return weights, 1 / jnp.sum(weights**2, axis=-1)

    def blackjax(module):
        size = jax.vmap(module.ess) if batched else module.ess
        return Contender("blackjax", "softmax, ess", lambda lw: (jax.nn.softmax(lw), size(lw)))

    def particles(module):
        def run(log_weights):
            weights = module.Weights(log_weights)
            return weights.W, weights.ESS

        return Contender("particles", "Weights", run, is_jax=False)

    return [
        Contender("jax", "softmax, 1 / sum W^2", plain),
        *_of("blackjax", "blackjax.smc.ess", blackjax),
        *([] if batched else _of("particles", "particles.resampling", particles)),
    ]


# ------------------------------------------------------------ resampling


def _searchsorted(key, log_weights):
    """The textbook's systematic resampling in the precision of the weights."""
    num = log_weights.shape[-1]
    sums = jnp.cumsum(jax.nn.softmax(log_weights))
    levels = (jnp.arange(num) + jax.random.uniform(key, dtype=sums.dtype)) / num
    return jnp.clip(jnp.searchsorted(sums, levels), 0, num - 1)


def _choice(key, log_weights):
    num = log_weights.shape[-1]
    return jax.random.choice(key, num, (num,), p=jax.nn.softmax(log_weights))


def _blackjax(scheme: str) -> list[Contender]:
    def make(module):
        function = getattr(module, scheme)
        return Contender("blackjax", scheme, functools.partial(_of_weights, function))

    return _of("blackjax", "blackjax.smc.resampling", make)


def _of_weights(function, key, log_weights):
    return function(key, jax.nn.softmax(log_weights), log_weights.shape[-1])


def _cuthbert(scheme: str) -> list[Contender]:
    def make(module):
        def run(key, log_weights):
            return module.resampling(key, log_weights, log_weights, log_weights.shape[-1])[0]

        return Contender("cuthbert", scheme, run)

    return _of("cuthbert", f"cuthbertlib.resampling.{scheme}", make)


def _particles(scheme: str) -> list[Contender]:
    def make(module):
        resample = getattr(module, scheme)

        def one_row(log_weights):
            return resample(module.Weights(log_weights).W, M=log_weights.shape[-1])

        def run(key, log_weights):
            del key  # it draws from NumPy's global generator
            if log_weights.ndim == 1:
                return one_row(log_weights)
            return np.stack([one_row(row) for row in log_weights])

        return Contender(
            "particles", scheme, run, is_jax=False, prepare=_in_double, dtype="float64"
        )

    return _of("particles", "particles.resampling", make)


def _torch_searchsorted(module, key, log_weights):
    del key
    num = log_weights.shape[-1]
    sums = module.cumsum(module.softmax(log_weights, -1), -1)
    steps = module.arange(num, device=sums.device, dtype=sums.dtype)
    levels = (steps + module.rand((), device=sums.device, dtype=sums.dtype)) / num
    return module.searchsorted(sums, levels).clamp_(max=num - 1)


def _torch_multinomial(module, key, log_weights):
    del key
    weights = module.softmax(log_weights, -1)
    return module.multinomial(weights, weights.shape[-1], replacement=True)


def _cupy_searchsorted(module, key, log_weights):
    del key
    num = log_weights.size
    weights = module.exp(log_weights - log_weights.max())
    sums = module.cumsum(weights)
    levels = (module.arange(num, dtype=sums.dtype) + module.random.rand()) * (sums[-1] / num)
    return module.minimum(module.searchsorted(sums, levels.astype(sums.dtype)), num - 1)


_RESAMPLING: dict[str, Callable[[], list[Contender]]] = {
    "systematic": lambda: [
        Contender("jax", "searchsorted", _searchsorted),
        *_blackjax("systematic"),
        *_particles("systematic"),
        *_cuthbert("systematic"),
        *_torch("searchsorted", _torch_searchsorted),
        *_cupy("searchsorted", _cupy_searchsorted),
    ],
    "stratified": lambda: [*_blackjax("stratified"), *_particles("stratified")],
    "multinomial": lambda: [
        Contender("jax", "random.choice", _choice),
        *_blackjax("multinomial"),
        *_particles("multinomial"),
        *_cuthbert("multinomial"),
        *_torch("multinomial", _torch_multinomial),
    ],
    # What others call residual.
    "residual_multinomial": lambda: [*_blackjax("residual"), *_particles("residual")],
    "ssp": lambda: _particles("ssp"),
    "killing": lambda: [*_particles("killing"), *_cuthbert("killing")],
}


def resampling(scheme: str, batched: bool) -> list[Contender]:
    """Ancestors from log-weights; for several rows those that can be mapped over them."""
    contenders = _RESAMPLING.get(scheme, list)()
    if not batched:
        return contenders
    return [_mapped(c) for c in contenders if c.is_jax or c.package == "particles"]


def _mapped(contender: Contender) -> Contender:
    if not contender.is_jax:
        return contender

    def run(key, log_weights):
        keys = jax.random.split(key, log_weights.shape[0])
        return jax.vmap(contender.function)(keys, log_weights)

    return Contender(contender.package, contender.name, run)


# ------------------------------------------------------------ gathering and prefix sums


def gather() -> list[Contender]:
    """Rows of an array by an index."""
    return [
        Contender("jax", "x[index]", lambda x, index: x[index]),
        Contender("numpy", "take", lambda x, i: np.take(x, i, axis=0), is_jax=False),
        *_torch("index_select", lambda module, x, index: module.index_select(x, 0, index)),
        *_cupy("take", lambda module, x, index: module.take(x, index, axis=0)),
    ]


def prefix_sum() -> list[Contender]:
    """Sums of int32 up to each place."""
    return [
        Contender("jax", "cumsum", jnp.cumsum),
        Contender("numpy", "cumsum", lambda x: np.cumsum(x, dtype=x.dtype), is_jax=False),
        *_torch("cumsum", lambda module, x: module.cumsum(x, 0, dtype=x.dtype)),
        *_cupy("cumsum", lambda module, x: module.cumsum(x, dtype=x.dtype)),
    ]


# ------------------------------------------------------------ random numbers, and a step


def normals(size: int, dtype: np.dtype) -> list[Contender]:
    """Standard normal numbers."""
    rng = np.random.default_rng(0)
    return [
        Contender("jax", "random.normal", lambda key: jax.random.normal(key, (size,), dtype)),
        Contender(
            "numpy",
            "standard_normal",
            lambda key: rng.standard_normal(size, dtype=dtype.type),
            is_jax=False,
        ),
        *_torch(
            "randn",
            lambda module, key: module.randn(
                size,
                dtype=getattr(module, dtype.name),
                device="cuda" if jax.default_backend() == "gpu" else "cpu",
            ),
        ),
    ]


def bootstrap() -> list[Contender]:
    """One step of a bootstrap filter, with the resampling of others."""
    model = VolatilityStep()

    def particles(module):
        rng = np.random.default_rng(0)

        def step(key, state, log_weights):
            del key
            num = state.size
            index = module.systematic(module.Weights(log_weights).W, M=num)
            state = model.move(state[index], rng.standard_normal(num))
            return state, model.weigh(state, np), index

        return Contender(
            "particles",
            "systematic, NumPy",
            step,
            is_jax=False,
            prepare=_in_double,
            dtype="float64",
        )

    of_jax = [*_blackjax("systematic"), *_cuthbert("systematic")]
    return [
        *(Contender(c.package, c.name, model.with_ancestors(c.function)) for c in of_jax),
        *_of("particles", "particles.resampling", particles),
    ]
