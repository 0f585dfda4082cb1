"""Files of every kind that a forger wrote: CorruptFileError or an object, and nothing else."""

import contextlib
import os
import pickle
import random
import tracemalloc
import warnings

import numpy as np
import pytest

import bayeskit as bk
from bayeskit.container import read_container, write_container
from bayeskit.errors import CheckpointMismatchError, CorruptFileError
from bayeskit.inference import CheckpointFile
from bayeskit.models.distribution_transformer import GaussianMixtureMetaPrior, LinearGaussian
from tests.bad_input import entries
from tests.mutated_files import MUTATIONS, forge_contents, forge_manifest

# Kinds whose files are read without compiling anything, and those that set up their model.
QUICK = ("Posterior", "BayesianModel", "DistributionTransformer")
MODELS = ("MarkovGPRegressor", "FunctionalCP", "FunctionalTucker", "KnowledgeTracer")


def save_one(kind, path):
    """Write the file of a small result or estimator."""
    match kind:
        case "Posterior":
            entries.numpyro_model().result_.save(path)
        case "BayesianModel":
            entries.numpyro_model().save(path)
        case "DistributionTransformer":
            entries._transformer().save(path)
        case "trained DistributionTransformer":
            small = {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_hidden": 8, "batch_size": 16}
            bk.DistributionTransformer(
                LinearGaussian(1.0, 1.0),
                GaussianMixtureMetaPrior(),
                warm_start=False,
                budget_seconds=None,
                max_steps=1,
                progress=False,
                random_state=0,
                **small,
            ).fit().save(path)
        case "MarkovGPRegressor":
            entries.markov_gp().save(path)
        case "FunctionalCP":
            entries.functional_cp().save(path)
        case "FunctionalTucker":
            entries.functional_tucker().save(path)
        case "KnowledgeTracer":
            entries.knowledge_tracer().save(path)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the path of a sound file of a kind."""
    folder, made = tmp_path_factory.mktemp("good"), {}

    def of(kind):
        if kind not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[kind] = save_one(kind, folder / f"{kind}.bkit")
        return made[kind]

    return of


def fingerprint(loaded, path):
    """Write what was loaded, and return what the file holds."""
    loaded.save(path)
    found = read_container(path)
    path.unlink()
    arrays = {name: (v.dtype.str, v.shape, v.tobytes()) for name, v in found.arrays.items()}
    # Seconds of this process, and nothing else, may differ.
    return repr({k: v for k, v in found.parameters.items() if k != "timing"}), arrays


def run_forgeries(kind, path, folder, count, seed):
    """Load forged files, and return how many were refused."""
    contents = read_container(path)
    rng, forged, refused = random.Random(seed), folder / "forged.bkit", 0
    kind = kind.split()[-1]
    for index in range(count):
        parameters, arrays = forge_contents(rng, contents)
        write_container(forged, kind, parameters, arrays)
        with warnings.catch_warnings():
            # What is odd in data that can be is warned of, as after a fit.
            warnings.simplefilter("ignore")
            try:
                loaded = bk.load(forged)
            except CorruptFileError:
                refused += 1
                continue
            except ValueError as error:
                # Where the simulator is missing, the user has to give it.
                if "does not hold the simulator" not in str(error):
                    raise
                continue
        # A Posterior that was let in can be read like any other.
        if kind == "Posterior":
            assert loaded.num_draws == len(loaded.flat(next(iter(loaded.draws)))), (seed, index)
    assert [entry.name for entry in folder.iterdir()] == ["forged.bkit"]
    return refused


@pytest.mark.parametrize("kind", [*QUICK, *MODELS])
def test_sound_files_are_read_the_same(kind, good, tmp_path):
    path = good(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = fingerprint(bk.load(path), tmp_path / "first.bkit")
        write_container(tmp_path / "again.bkit", kind, *_parts(read_container(path)))
        again = bk.load(tmp_path / "again.bkit")
    assert fingerprint(again, tmp_path / "second.bkit") == first


def _parts(contents):
    return contents.parameters, contents.arrays


@pytest.mark.parametrize(
    ("kind", "count"), [*((kind, 100) for kind in QUICK), *((kind, 8) for kind in MODELS)]
)
def test_forged_contents_are_refused_or_read(kind, count, good, tmp_path):
    assert run_forgeries(kind, good(kind), tmp_path, count, seed=1) >= count // 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *((kind, 20_000) for kind in QUICK),
        ("trained DistributionTransformer", 2_000),
        *((kind, 300) for kind in MODELS),
    ],
)
def test_very_many_forged_contents_are_refused_or_read(kind, count, good, tmp_path):
    assert run_forgeries(kind, good(kind), tmp_path, count, seed=2) >= count // 8


def run_damage(path, folder, count, seed):
    """Load damaged files: they are refused, or what was saved is read."""
    content = path.read_bytes()
    rng, damaged = random.Random(seed), folder / "damaged.bkit"
    kept = folder / "kept.bkit"
    expected, refused = fingerprint(bk.load(path), kept), 0
    for index in range(count):
        mutate = MUTATIONS[index % len(MUTATIONS)]
        damaged.write_bytes(mutate(rng, content))
        try:
            loaded = bk.load(damaged)
        except CorruptFileError:
            refused += 1
            continue
        if mutate is not forge_manifest:
            assert fingerprint(loaded, kept) == expected, (seed, index)
    assert [entry.name for entry in folder.iterdir()] == ["damaged.bkit"]
    return refused


@pytest.mark.parametrize("kind", QUICK)
def test_damaged_files_are_refused_or_read_the_same(kind, good, tmp_path):
    assert run_damage(good(kind), tmp_path, 160, seed=1) > 80


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*QUICK, "trained DistributionTransformer"])
def test_very_many_damaged_files_are_refused_or_read_the_same(kind, good, tmp_path):
    assert run_damage(good(kind), tmp_path, 20_000, seed=2) > 10_000


@pytest.mark.slow
def test_memory_of_loading_is_bounded(good, tmp_path):
    """Below twice the file and 64 MiB, for a sound file and for forged numbers in it."""
    for kind in ("Posterior", "trained DistributionTransformer"):
        path, forged = good(kind), tmp_path / "forged.bkit"
        parameters, arrays = _parts(read_container(path))
        if "settings" in parameters:
            parameters["settings"]["d_model"] = 1_000_000
        write_container(forged, kind.split()[-1], parameters, arrays)
        bk.load(path)
        tracemalloc.start()
        with contextlib.suppress(CorruptFileError):
            bk.load(forged)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * os.path.getsize(forged) + 64 * 2**20


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", [*QUICK, *MODELS])
def test_names_in_files_are_no_code(kind, good, tmp_path):
    """Text that names modules and pickles stays text, wherever it stands in the parameters."""
    contents, trap = read_container(good(kind)), tmp_path / "trap"
    pickled = pickle.dumps(Bomb(trap)).decode("latin-1")
    forged = tmp_path / "forged.bkit"
    for text in ("os.mkdir", "__import__('os').mkdir('trap')", pickled, "../../etc/passwd"):
        parameters = {
            name: text if isinstance(value, str) else value
            for name, value in contents.parameters.items()
        }
        write_container(forged, kind, parameters, contents.arrays)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bk.load(forged)
        except CorruptFileError:
            pass
        assert not trap.exists()
    write_container(forged, "Mkdir", contents.parameters, contents.arrays)
    with pytest.raises(CorruptFileError, match="Mkdir"):
        bk.load(forged)


# ------------------------------------------------------------ checkpoints


def run_checkpoints(folder, count, seed):
    """Read damaged and forged checkpoints: refused, or the arrays that were written."""
    path = folder / "run.bkit"
    arrays = {"draws/.x": np.arange(12.0).reshape(3, 4), "draws/.step": np.array(3)}
    settings = {"rate": "0.1", "data": "float64 (3,) abc"}
    with CheckpointFile(path, settings) as file:
        file.write(arrays)
    content = path.read_bytes()
    rng, refused = random.Random(seed), 0
    for index in range(count):
        mutate = MUTATIONS[index % len(MUTATIONS)]
        path.write_bytes(mutate(rng, content))
        try:
            with CheckpointFile(path, settings) as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = file.read()
        except (CorruptFileError, CheckpointMismatchError):
            refused += 1
            continue
        if mutate is not forge_manifest:
            assert set(found) == set(arrays), (seed, index)
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[name], array)
    assert [entry.name for entry in folder.iterdir()] == ["run.bkit"]
    return refused


def test_damaged_checkpoints_are_refused_or_read_the_same(tmp_path):
    assert run_checkpoints(tmp_path, 160, seed=1) > 80


@pytest.mark.slow
def test_very_many_damaged_checkpoints_are_refused_or_read_the_same(tmp_path):
    assert run_checkpoints(tmp_path, 20_000, seed=2) > 10_000


def test_forged_checkpoints_of_an_engine_start_no_run(tmp_path):
    """An engine goes on from its own state or says that the file is none of its own."""
    target, path = entries.target().with_data(entries.X, entries.Y), tmp_path / "run.bkit"
    engine = bk.NUTS(num_draws=10, num_warmup=10, num_chains=1, progress=False, checkpoint=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = engine.run(target, None, 0)
        contents = read_container(path)
        rng = random.Random(3)
        refused = 0
        for index in range(12):
            parameters, arrays = forge_contents(rng, contents)
            write_container(path, "Checkpoint", parameters, arrays)
            try:
                found = engine.run(target, None, 0)
            except (CorruptFileError, CheckpointMismatchError):
                refused += 1
                continue
            # Numbers that were changed are read; shapes and kinds are not.
            assert found.positions.dtype == expected.positions.dtype, index
        assert refused > 3
