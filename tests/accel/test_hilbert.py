"""The Hilbert curve: every cell once, neighbour after neighbour, at every scale."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel


def grid(dim, num_bits):
    return np.array(list(itertools.product(range(2**num_bits), repeat=dim)))


def walk(cells, index):
    """The lengths of the steps along the curve."""
    return np.abs(np.diff(cells[np.argsort(index)], axis=0)).sum(1)


@pytest.mark.parametrize(("dim", "num_bits"), [(1, 5), (2, 4), (2, 5), (3, 3), (4, 2)])
def test_a_curve_through_all_cells(dim, num_bits):
    cells = grid(dim, num_bits)
    index = np.asarray(accel.hilbert_index(jnp.asarray(cells), num_bits))
    np.testing.assert_array_equal(np.sort(index), np.arange(len(cells)))
    assert (walk(cells, index) == 1).all()
    # Cells twice as wide are visited whole, one after the other.
    wide = np.asarray(accel.hilbert_index(jnp.asarray(cells >> 1), num_bits - 1))
    np.testing.assert_array_equal(index >> dim, wide)


def drawn(num_bits):
    """The curve in the plane as Hilbert drew it: four copies of the one before."""
    if num_bits == 0:
        return np.zeros((1, 2), int)
    part, half = drawn(num_bits - 1), 2 ** (num_bits - 1)
    up, right = np.array([[0, half], [half, 0]])
    turned, last = part[:, ::-1], (half - 1) - part[:, ::-1]
    return np.concatenate([turned, part + up, part + half, last + right])


@pytest.mark.parametrize("num_bits", [1, 2, 3, 6])
def test_the_curve_of_hilbert(num_bits):
    path = drawn(num_bits)
    index = np.asarray(accel.hilbert_index(jnp.asarray(path), num_bits))
    np.testing.assert_array_equal(index, np.arange(4**num_bits))


def morton_index(cells, num_bits):
    """Planted: digits interleaved without turning the cubes."""
    index = np.zeros(len(cells), int)
    for bit in range(num_bits - 1, -1, -1):
        for axis in cells.T:
            index = 2 * index + ((axis >> bit) & 1)
    return index


def test_cubes_that_are_not_turned_are_caught():
    cells = grid(2, 4)
    index = morton_index(cells, 4)
    np.testing.assert_array_equal(np.sort(index), np.arange(len(cells)))
    assert (walk(cells, index) != 1).any()


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_neighbours_along_the_curve_are_close(dim):
    points = np.random.default_rng(dim).normal(size=(2000, dim)) * 10.0 ** np.arange(dim)
    places = np.argsort(np.asarray(accel.hilbert_order(jnp.asarray(points))))
    standard = points / points.std(0)
    step = lambda order: np.linalg.norm(np.diff(standard[order], axis=0), axis=1).mean()
    # Measured: 0.06, 0.17 and 0.56 of the distance between two points of the cloud.
    assert step(places) < 0.75 * step(np.arange(2000))
    assert step(places) < step(np.argsort(standard[:, 0]))


def test_edges():
    line = jnp.array([[3.0], [-1.0], [2.0]])
    np.testing.assert_array_equal(accel.hilbert_order(line), line[:, 0])
    same = jnp.ones((4, 3))
    assert len(np.unique(accel.hilbert_order(same))) == 1
    far = jnp.array([[jnp.nan, 0.0], [jnp.inf, 0.0], [-jnp.inf, 1.0], [0.0, 2.0]])
    assert len(np.unique(accel.hilbert_order(far))) == 4
    with pytest.raises(ValueError, match=r"num_bits must be from 1 to 16, .* got 17"):
        accel.hilbert_index(jnp.zeros((5, 2), int), 17)
    with pytest.raises(ValueError, match="sort by at most 16 of them"):
        accel.hilbert_order(jnp.zeros((5, 17)))
    for shape in ((5,), (5, 0), (2, 5, 2)):
        with pytest.raises(ValueError, match=r"points must have the shape \(num, dim\), got"):
            accel.hilbert_order(jnp.zeros(shape))
