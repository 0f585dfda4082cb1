"""Programs are forgotten before the table of mappings is full, and only then."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import bayeskit as bk
from bayeskit.accel import mapped_memory
from bayeskit.accel.mapped_memory import make_room
from bayeskit.inference.compile_clock import CompileClock
from tests.bad_input import entries

pytestmark = pytest.mark.skipif(not mapped_memory._MAPS.exists(), reason="needs /proc")


def num_maps():
    return mapped_memory._MAPS.read_bytes().count(b"\n")


@pytest.fixture
def limited(tmp_path, monkeypatch):
    def to(limit):
        (tmp_path / "limit").write_text(str(limit))
        monkeypatch.setattr(mapped_memory, "_LIMIT", tmp_path / "limit")
        monkeypatch.setattr(mapped_memory, "_EVERY", 1)
        monkeypatch.setattr(mapped_memory, "_left", 0)

    return to


def compiled_again(function):
    with CompileClock() as clock:
        function(jnp.ones(3))
    return clock.num_compiled > 0


def test_programs_are_forgotten_only_where_few_mappings_are_left(limited):
    function = jax.jit(lambda x: jnp.cumsum(x) * 3.0)
    function(jnp.ones(3))
    limited(100 * num_maps())
    assert not make_room() and not compiled_again(function)
    limited(num_maps())
    assert make_room() and compiled_again(function)
    # What did not help is not tried again and again.
    assert not make_room() and not compiled_again(function)


def test_systems_without_such_a_table(limited, monkeypatch, tmp_path):
    limited("unknown")
    assert not make_room()
    monkeypatch.setattr(mapped_memory, "_MAPS", tmp_path / "nothing")
    assert not make_room()


def most_maps_of_new_models(num):
    most = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in range(num):
            model = entries.state_space(name=f"model {place}")
            est = bk.BayesianModel(model, inference=entries.FILTER, random_state=0)
            est.fit(entries.X, entries.Y)
            most = max(most, num_maps())
    return most


@pytest.mark.slow
def test_models_that_are_made_anew_do_not_fill_the_table(limited, monkeypatch):
    """As if there were room for the programs of some fifteen models; thirty are fitted."""
    most_maps_of_new_models(2)
    limit = num_maps() + 3000
    limited(limit)
    monkeypatch.setattr(mapped_memory, "_SHARE", (limit - 1500) / limit)
    assert most_maps_of_new_models(30) < limit
    monkeypatch.setattr(mapped_memory, "_LIMIT", mapped_memory._LIMIT.with_name("none"))
    assert most_maps_of_new_models(30) > limit
