"""What the package does not touch, and what many threads and long use do to it."""

import ctypes
import gc
import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeskit as bk
from bayeskit.errors import BayeskitWarning
from bayeskit.inference.compile_clock import CompileClock
from tests.bad_input import entries

IMPORTS_QUIETLY = """
import json, os, socket, sys
before = dict(os.environ)
class Forbidden(socket.socket):
    def __init__(self, *args, **kwargs):
        raise AssertionError("a socket was opened")
    def connect(self, *args):
        raise AssertionError("a connection was made")
socket.socket = Forbidden
socket.create_connection = socket.getaddrinfo = Forbidden
written = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        flags = arguments[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])
    if event in ("socket.connect", "os.mkdir", "os.rename", "os.remove"):
        written.append(f"{event} {arguments[:1]}")
import jax
flags = {name: jax.config.values[name] for name in sorted(jax.config.values)}
sys.addaudithook(watch)
STATEMENTS
after = {name: jax.config.values[name] for name in sorted(jax.config.values)}
changed = [name for name in flags if flags[name] != after[name]]
env = {name for name in os.environ if before.get(name) != os.environ[name]}
print(json.dumps([written, changed, sorted(env)]))
"""


LOADS_ALL = """
import bayeskit
for name in bayeskit.__all__:
    if name != "plots":
        getattr(bayeskit, name)
"""


def loaded_quietly(tmp_path, statements=LOADS_ALL):
    """Run statements in a new process, and return the process and the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o500)
    root = Path(__file__).resolve().parents[1]
    env = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"PYTHONPATH": f"{root}{os.pathsep}{env.get('PYTHONPATH', '')}", "MPLBACKEND": "Agg"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        IMPORTS_QUIETLY.replace("STATEMENTS", statements),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    return done, home


def test_import_opens_no_socket_writes_no_file_and_sets_no_flag(tmp_path):
    """With sockets forbidden, and a home folder in which nothing can be made."""
    done, home = loaded_quietly(tmp_path)
    assert done.returncode == 0, done.stderr
    written, changed, environment = json.loads(done.stdout.splitlines()[-1])
    # ArviZ 0.x notes in the temporary folder that it has announced its next version.
    written = [name for name in written if "arviz" not in name.lower()]
    assert written == []
    assert changed == []
    assert list(home.iterdir()) == []
    # JAX itself sets what it tells its own libraries.
    assert not [name for name in environment if name.startswith(("BAYESKIT", "XLA", "JAX"))]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("open('planted', 'w')", '[["planted"], [], []]'),
        ("jax.config.update('jax_enable_x64', True)", '[[], ["jax_enable_x64"], []]'),
        ("os.environ['BAYESKIT_ACCEL'] = 'cpu'", '[[], [], ["BAYESKIT_ACCEL"]]'),
        ("socket.socket()", ""),
    ],
)
def test_what_must_not_be_done_is_seen(statement, found, tmp_path):
    done, _ = loaded_quietly(tmp_path, statement)
    if found:
        assert json.loads(done.stdout.splitlines()[-1]) == json.loads(found)
    else:
        assert "a socket was opened" in done.stderr


def values_of(seed):
    """Fit several estimators, and return what they found."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=entries.X.shape), rng.normal(size=len(entries.Y))
    found = [
        entries.numpyro_model(X=x, y=y, random_state=seed).result_.positions,
        entries.state_space_model(X=x, y=y, random_state=seed).log_evidence_,
        entries.markov_gp(X=x[:, 0], y=y).log_evidence_,
        entries.dsl(X=x, y=y).coef_,
    ]
    return [np.asarray(value) for value in found]


def test_eight_threads_find_what_a_sequence_finds():
    seeds = list(range(8))
    # Filters of warnings are shared by all threads: they are set once, around them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [values_of(seed) for seed in seeds]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(values_of, seeds))
    for left, right in zip(found, expected, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(expected[0][0], expected[1][0])


def resident_bytes():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def live_bytes():
    """Return the resident size once what is free was given back: a leak would hide in it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return resident_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_thousand_fits_take_no_more_memory_and_compile_nothing():
    """Below 1 MB a thousand fits, after the first hundred have filled all caches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeskitWarning)
        for seed in range(100):
            values_of(seed)
        before = live_bytes()
        with CompileClock() as clock:
            for seed in range(100, 350):
                values_of(seed)
        growth = live_bytes() - before
    assert clock.num_compiled == 0
    assert growth < 2**20


def regression(X, noise, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, noise), obs=y)


ENGINES = (entries.SMC, bk.EnsembleHMC(num_chains=32, num_draws=20, progress=False))


def fit_once(seed, model=regression):
    """Fit new data of the same shape with new noise, and look at the result."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=entries.X.shape), rng.normal(size=len(entries.Y))
    est = bk.BayesianModel(model, inference=ENGINES[seed % 2], random_state=seed)
    est.fit(X=x, y=y, noise=float(rng.uniform(0.5, 2.0)))
    est.predict(x, noise=1.0)
    return est.log_evidence_


def grown(seeds, keep=None):
    """Return by how many bytes fits have grown the process, and how many programs were made."""
    before = live_bytes()
    with CompileClock() as clock:
        for seed in seeds:
            fit_once(seed)
            if keep is not None:
                keep.append(np.ones(1024))
    return live_bytes() - before, clock.num_compiled


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_thousand_fits_of_one_model_take_no_more_memory_and_compile_nothing():
    """Below 1 MB, after two hundred have filled all caches; a leak of 8 kB a fit is seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeskitWarning)
        grown(range(200))
        growth, compiled = grown(range(200, 1200))
        print(f"{growth / 2**20:.2f} MB, {compiled} programs compiled")
        assert compiled == 0
        assert growth < 2**20
        kept = []
        growth, _ = grown(range(1200, 1500), kept)
        assert growth > 2**20
        with CompileClock() as clock:
            # A function made anew is another model.
            fit_once(0, lambda X, noise, y=None: regression(X, noise, y))
        assert clock.num_compiled > 0
