"""Scans of associative operations: any block, any length, one size of program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bayeskit.accel import blocked_associative_scan
from bayeskit.accel.compilation import quick_jit
from bayeskit.accel.time.associative import block_of, by_method

quick = functools.partial(quick_jit, optimised=False)


def affine(earlier, later):
    """First x -> A x + b, then the later map: associative, not commutative."""
    return later[0] @ earlier[0], later[0] @ earlier[1] + later[1]


def elements(num_steps, dtype=np.float32, dim=2):
    rng = np.random.default_rng(num_steps)
    maps = rng.normal(size=(num_steps, dim, dim)) / dim
    return maps.astype(dtype), rng.normal(size=(num_steps, dim)).astype(dtype)


def loop(op, items, reverse):
    order = range(len(items))[::-1] if reverse else range(len(items))
    results, total = [], None
    for t in order:
        item = items[t]
        total = item if total is None else op(item, total) if reverse else op(total, item)
        results.append(total)
    return results[::-1] if reverse else results


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("num_steps", [1, 2, 130])
def test_every_block_gives_what_a_loop_gives(num_steps, reverse):
    A, b = elements(num_steps)
    expected = [
        np.stack(x)
        for x in zip(*loop(affine, list(zip(A, b, strict=True)), reverse), strict=True)
    ]
    blocks = (1, 7, 128, num_steps, "auto")

    @quick
    def scans(e):
        return [blocked_associative_scan(affine, e, block, reverse=reverse) for block in blocks]

    for found in scans((A, b)):
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == np.float32
            np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 4, 128])
def test_operands_in_another_order_are_caught(block):
    A, b = elements(17)
    expected = np.stack([x[1] for x in loop(affine, list(zip(A, b, strict=True)), False)])
    swapped = lambda e: blocked_associative_scan(lambda i, j: affine(j, i), e, block)[1]
    assert np.abs(quick(swapped)((A, b)) - expected).max() > 0.1


def test_maps_of_integers_are_exact():
    """Composition of maps on 5 points, for which the order matters."""
    maps = np.random.default_rng(1).integers(0, 5, (300, 5)).astype(np.int32)
    expected = np.stack(loop(lambda f, g: f[g], list(maps), True))
    for block in (1, 7, 300):
        scan = lambda e, block=block: blocked_associative_scan(
            lambda f, g: f[g], e, block, reverse=True
        )
        assert np.array_equal(quick(scan)(maps), expected)


def test_numbers_that_only_fill_the_last_block_do_not_grow():
    """Doubling past the end would overflow; its derivative would be NaN."""
    x = np.full(129, 1.9, np.float32)
    total = lambda x: blocked_associative_scan(jnp.multiply, x, 128)[-1]
    value, gradient = quick(jax.value_and_grad(lambda x: jnp.log(total(x))))(x)
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, 1 / 1.9, rtol=1e-4)


def test_derivatives_and_batches():
    A, b = elements(40)
    total = lambda b, block: jnp.sum(blocked_associative_scan(affine, (A, b), block)[1] ** 2)
    both = quick(jax.vmap(jax.value_and_grad(total), (0, None)), static_argnums=1)
    batch = np.stack([b, 2 * b])
    (expected, slopes), (found, found_slopes) = both(batch, 40), both(batch, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(found_slopes, slopes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(expected[0], total(b, 1), rtol=1e-5)


def num_instructions(function, *args):
    return jax.jit(function).lower(*args).compile().as_text().count(" = ")


def test_the_program_does_not_grow_with_time():
    """4 x 4 maps; ``lax.associative_scan`` goes from 501 to 1366 instructions."""
    for block, limit in (("auto", 150), (1, 150), (64, 450)):
        scan = lambda e, block=block: blocked_associative_scan(affine, e, block)
        sizes = [num_instructions(scan, elements(n, dim=4)) for n in (100, 1000, 10_000)]
        assert sizes[0] <= sizes[1] == sizes[2] < limit, (block, sizes)
    tree = lambda e: lax.associative_scan(jax.vmap(affine), e)
    assert num_instructions(tree, elements(1000, dim=4)) > 450


def lowered(function, platform, *args):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_decides_when_the_program_is_lowered():
    """No loop of T steps off the CPU: T - 1 = 4998 is nowhere the length of a loop."""
    e = elements(4999)
    scan = lambda e: blocked_associative_scan(affine, e)
    assert "dense<4998> : tensor<i32>" in lowered(scan, "cpu", *[e])
    assert "dense<4998> : tensor<i32>" not in lowered(scan, "cuda", *[e])


def test_methods():
    assert [block_of(m, 10_000) for m in ("auto", "sequential", "parallel")] == [
        "auto",
        10_000,
        3,
    ]
    assert by_method("parallel", lambda x: 0, lambda x: x, 7) == 7
    with pytest.raises(ValueError, match="method must be one of"):
        by_method("fast", None, None)


def test_bad_input():
    x = np.ones(3)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        blocked_associative_scan(jnp.add, x, 0)
    with pytest.raises(TypeError, match=r"block must be an integer or 'auto', got 1\.5"):
        blocked_associative_scan(jnp.add, x, 1.5)
    with pytest.raises(ValueError, match="the same leading axis of time, got shapes"):
        blocked_associative_scan(jnp.add, (x, np.ones(4)))
    with pytest.raises(ValueError, match="got none"):
        blocked_associative_scan(jnp.add, np.ones(0))
