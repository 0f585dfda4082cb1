"""Particles spread over devices: the same bits for any number of devices and processes."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from tests.processes import outcome, outcomes_of_two, start

PROGRAM = pathlib.Path(__file__).parent / "programs" / "mesh.py"


QUICK = ()
EVERYTHING = ("everything",)


@pytest.fixture(
    scope="module", params=[QUICK, pytest.param(EVERYTHING, marks=pytest.mark.slow)]
)
def arguments(request):
    """One block of each kind, or all of them, which take long to compile."""
    return request.param


@pytest.fixture(scope="module")
def on_virtual_devices(arguments):
    return outcome(start(PROGRAM, *arguments))


def test_the_number_of_devices_changes_no_bit(arguments, on_virtual_devices):
    alone, spread = (on_virtual_devices[k] for k in "18")
    assert {"filter", "sampler", "normalize", "totals", "systematic", "ring"} <= set(alone)
    if arguments == EVERYTHING:
        assert {"butterfly", "killing"} <= set(alone)
        evidence = alone.pop("evidence"), spread.pop("evidence")
        assert evidence[0] == pytest.approx(evidence[1], abs=1e-4)
    assert spread == alone
    for k in "24":
        few = on_virtual_devices[k]
        assert few == {name: alone[name] for name in few}


def test_ancestors_are_those_without_a_mesh(arguments, on_virtual_devices):
    unsharded = on_virtual_devices["none"]
    assert len(unsharded) >= (6 if arguments == EVERYTHING else 2)
    assert {name: on_virtual_devices["8"][name] for name in unsharded} == unsharded


def test_groups_send_only_what_they_exchange(on_virtual_devices):
    sent = on_virtual_devices["bytes"]
    # Of each last group on a device, 26 of 256 particles: 3 numbers and a weight of 4 bytes.
    assert sent["ring"] == {"collective-permute": 26 * 4 * 4}
    # All particles of all devices, to each.
    assert sent["systematic"]["all-gather"] > 4096 * 3 * 4


@pytest.mark.parametrize("bug", ["float sums", "one shard late"])
def test_planted_bugs_are_found(bug):
    answers = outcome(start(PROGRAM, bug))
    assert any(answers["8"][name] != answers["1"][name] for name in answers["8"])


def test_two_processes_make_the_same_bits(arguments, on_virtual_devices):
    alone = on_virtual_devices["1"]
    for answer in outcomes_of_two(PROGRAM, *arguments):
        assert {"filter", "sampler", "ring"} <= set(answer["8"])
        assert answer["8"] == {name: alone[name] for name in answer["8"]}


def test_total_is_exact_and_differentiable():
    rng = np.random.default_rng(0)
    values = np.exp(-40 * rng.random(10_007)).astype(np.float32)
    with accel.on_mesh(accel.particle_mesh()):
        found = accel.total(jnp.asarray(values))
        gradient = jax.grad(lambda v: accel.total(v**2))(jnp.asarray(values))
        rows = accel.total(jnp.array([[0.5, jnp.nan], [0.5, 0.25]]))
    assert np.isnan(rows[0]) and rows[1] == 0.75
    assert found == np.float32(values.astype(np.float64).sum())
    assert np.allclose(gradient, 2 * values)
    assert accel.total(jnp.array([0.25, 0.5])) == 0.75


def test_without_a_mesh_nothing_moves():
    x = jnp.arange(3.0)
    assert accel.spread(x) is x
    assert accel.gathered(x) is x
    assert accel.current_mesh() is None


def test_a_number_that_does_not_divide_stays_together():
    with accel.on_mesh(accel.particle_mesh()) as nothing:
        assert nothing is None
        index = accel.systematic(accel.as_key(0), jnp.zeros(7)).index
    assert index.tolist() == list(range(7))


def test_each_mesh_has_its_own_program():
    traces = []

    @jax.jit
    def program(x):
        traces.append(accel.current_mesh())
        return accel.spread(x) + 1

    mesh = accel.particle_mesh()
    program(jnp.zeros(4))
    for _ in range(2):
        with accel.on_mesh(mesh):
            program(jnp.zeros(4))
    program(jnp.zeros(4))
    assert traces == [None, mesh]


def test_bad_input():
    with pytest.raises(TypeError, match=r"must be a jax.sharding.Mesh, got int.*particle_mesh"):
        with accel.on_mesh(8):
            pass
    other = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    with pytest.raises(ValueError, match=r"axes \('batch',\) and needs one called 'particles'"):
        with accel.on_mesh(other):
            pass
    with pytest.raises(ValueError, match="at least one device"):
        accel.particle_mesh([])
