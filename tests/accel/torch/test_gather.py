from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from bayeskit.accel.torch import resample_and_gather, systematic, take_particles  # noqa: E402

ANCESTORS = torch.tensor([2, 2, 0, 1], dtype=torch.int32)


class State(NamedTuple):
    position: torch.Tensor
    flags: torch.Tensor


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64],
)
def test_leaves_of_any_dtype_and_shape(dtype):
    leaf = torch.arange(12).reshape(3, 2, 2).to(dtype)
    taken = take_particles(leaf, ANCESTORS)
    assert taken.dtype == dtype
    assert torch.equal(taken, leaf[ANCESTORS.long()])


def test_structures():
    x = torch.tensor([1.0, 2.0, 3.0])
    tree = {"a": [x, (x + 1,)], "b": State(x, x > 1)}
    taken = take_particles(tree, ANCESTORS)
    assert taken["a"][0].tolist() == [3.0, 3.0, 1.0, 2.0]
    assert taken["a"][1][0].tolist() == [4.0, 4.0, 2.0, 3.0]
    assert isinstance(taken["b"], State)
    assert taken["b"].flags.tolist() == [True, True, False, True]


def test_gradient_adds_up_over_children():
    x = torch.ones(3, requires_grad=True)
    take_particles(x, ANCESTORS).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 2.0]


def test_indices_out_of_range_take_the_nearest():
    assert take_particles(torch.arange(3), torch.tensor([-5, 9])).tolist() == [0, 2]


def test_resample_and_gather_takes_what_resampling_chose():
    log_weights, x = torch.randn(50), torch.randn(50, 3)
    for scheme in ("systematic", "residual"):
        tree, ancestors = resample_and_gather(log_weights, {"x": x}, scheme, 70, u=0.3)
        assert torch.equal(ancestors.index, systematic(log_weights, 70, u=0.3).index)
        assert torch.equal(tree["x"], x[ancestors.index.long()])


def test_bad_input():
    x = torch.zeros(3)
    with pytest.raises(TypeError, match="ancestors must be integers"):
        take_particles(x, torch.zeros(3))
    with pytest.raises(ValueError, match="one axis, got shape"):
        take_particles(x, ANCESTORS[None])
    with pytest.raises(
        ValueError, match=r"tree\['b'\]\[0\] has 4 particles .* tree\['a'\] has 3"
    ):
        take_particles({"a": x, "b": [torch.zeros(4)]}, ANCESTORS)
    with pytest.raises(ValueError, match="tree is a scalar"):
        take_particles(torch.tensor(1.0), ANCESTORS)
    with pytest.raises(TypeError, match="tree must be a tensor, got float"):
        take_particles(1.0, ANCESTORS)
    with pytest.raises(ValueError, match=r"scheme must be one of systematic.*got 'ssp'"):
        resample_and_gather(x, x, "ssp")
    with pytest.raises(ValueError, match=r"tree has 4 particles .* but log_weights has 3"):
        resample_and_gather(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"one row, got shape \(2, 3\)"):
        resample_and_gather(torch.zeros(2, 3), torch.zeros(2), u=0.5)
