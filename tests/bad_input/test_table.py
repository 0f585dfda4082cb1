"""Every row of the table of bad input, at every public entry: the error, at once."""

import ast
import inspect
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning, InitializationError
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.base import as_random_key
from tests.bad_input.table import ENTRIES, TABLE, Absent, Refused, Shown

# To convert an array, or to split a key, is a program of one operation.
FEW_PROGRAMS = 2
ROOT = Path(__file__).resolve().parents[2]


def cells():
    """Return (row, entry, cell) for all cells of the table."""
    for row, by_entry in TABLE.items():
        for entry, found in by_entry.items():
            for cell in found if isinstance(found, tuple) else (found,):
                yield row, entry, cell


CELLS = list(cells())
REFUSED = [(row, entry, cell) for row, entry, cell in CELLS if isinstance(cell, Refused)]


@pytest.fixture(scope="module", autouse=True)
def _keys():
    """Make keys before anything is measured: each kind is a tiny program of its own."""
    as_random_key(0)
    for precision in (False, True):
        with jax.enable_x64(precision):
            jax.random.split(jax.random.key(0))
    ENTRIES["DistributionTransformer"]()
    ENTRIES["resampling"]()


@pytest.mark.parametrize(
    ("row", "entry", "cell"), REFUSED, ids=[f"{row}-{entry}" for row, entry, _ in REFUSED]
)
def test_is_refused_at_once(row, entry, cell, tmp_path):
    """The promised error, below a second of CPU time, before anything is compiled."""
    arguments = dict(cell.arguments)
    if entry == "command line":
        arguments["folder"] = tmp_path
    before = {name: np.array(v) for name, v in arguments.items() if isinstance(v, np.ndarray)}
    start = time.process_time()
    with CompileClock() as clock, pytest.raises(cell.error, match=cell.match):
        ENTRIES[entry](**arguments)
    assert time.process_time() - start < 1.0
    assert clock.num_compiled <= FEW_PROGRAMS
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array)


def test_every_row_meets_every_entry():
    """No cell is forgotten, and what is shown elsewhere is there."""
    for row, by_entry in TABLE.items():
        assert list(by_entry) == list(ENTRIES), row
    for row, entry, cell in CELLS:
        assert isinstance(cell, Refused | Shown | Absent), (row, entry, cell)
    known = {}
    for row, entry, cell in CELLS:
        if isinstance(cell, Shown):
            file, *names = cell.test.split("::")
            if file not in known:
                tree = ast.parse((ROOT / file).read_text())
                known[file] = {
                    node.name
                    for node in ast.walk(tree)
                    if isinstance(node, ast.FunctionDef | ast.ClassDef)
                }
            assert set(filter(None, names)) <= known[file], (row, entry, cell.test)


def test_arguments_are_those_of_entries():
    """A misspelt argument would be refused for another reason than the row's."""
    for row, entry, cell in REFUSED:
        signature = inspect.signature(ENTRIES[entry])
        takes_all = any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())
        assert takes_all or set(cell.arguments) <= set(signature.parameters), (row, entry)


def test_what_is_seen_late_is_more_than_a_few_programs():
    """The bound of the first test tells a door from an error in the midst of a run."""
    inference = bk.NUTS(num_chains=1, progress=False)
    with (
        CompileClock() as clock,
        pytest.raises(InitializationError, match="none of 100 starts"),
    ):
        ENTRIES["Target"](log_likelihood=lambda b, X, y: jnp.nan * b[0], inference=inference)
    assert clock.num_compiled > FEW_PROGRAMS


@pytest.mark.parametrize("entry", [name for name in ENTRIES if name != "command line"])
def test_good_input_passes(entry):
    """What is refused above is refused for what was changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert ENTRIES[entry]() is not None or entry == "resampling"
