"""Programs are kept on disk for the next session, and JAX's settings are as they were."""

import jax
import pytest

from bayeskit.accel import program_cache as module
from bayeskit.accel.program_cache import ENVIRONMENT, program_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def settings():
    return {name: getattr(jax.config, name) for name in SETTINGS}


@pytest.fixture
def unconfigured(monkeypatch, tmp_path):
    """JAX without a cache of its own, as most users have it."""
    before = settings()
    jax.config.update("jax_compilation_cache_dir", None)
    module.compilation_cache.reset_cache()
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    module.compilation_cache.reset_cache()


def compile_something(number):
    return jax.jit(lambda x: x * number + 1.0)(float(number))


def test_programs_are_kept_within_and_not_after(unconfigured):
    before = settings()
    with program_cache():
        compile_something(11)
        with program_cache():
            assert settings() != before
        assert settings() != before
        compile_something(12)
    assert settings() == before
    kept = [file for file in unconfigured.rglob("*") if file.is_file()]
    assert len(kept) >= 2
    compile_something(13)
    assert len([file for file in unconfigured.rglob("*") if file.is_file()]) == len(kept)
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in unconfigured.iterdir())


def test_an_error_leaves_nothing_behind(unconfigured):
    before = settings()
    with pytest.raises(ZeroDivisionError), program_cache():
        _ = 1 / 0
    assert settings() == before


@pytest.mark.parametrize("word", ["off", "0", "No"])
def test_it_can_be_turned_off(unconfigured, monkeypatch, word):
    monkeypatch.setenv(ENVIRONMENT, word)
    before = settings()
    with program_cache():
        assert settings() == before


def test_a_cache_of_the_users_own_is_respected(unconfigured, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    before = settings()
    with program_cache():
        assert settings() == before


def test_old_programs_go_first(unconfigured, monkeypatch):
    import os

    folder = unconfigured / module.processor_name()
    folder.mkdir()
    for age, name in enumerate(["new", "middle", "old"]):
        (folder / name).write_bytes(b"x" * 100)
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(module, "_MAX_BYTES", 250)
    monkeypatch.setattr(module, "_pruned", set())
    with program_cache():
        pass
    assert sorted(file.name for file in folder.iterdir()) == ["new"]


def test_a_folder_that_cannot_be_made_is_no_error(unconfigured, monkeypatch):
    (unconfigured / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT, str(unconfigured / "file"))
    before = settings()
    with program_cache():
        assert settings() == before
