"""Posterior databases: files of both layouts, and fits compared with reference draws."""

import json
import re
import zipfile

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.errors import CorruptFileError, InvalidDataError
from bayeskit.interop.posteriordb import posterior_names, read_posterior, scalar_draws
from benchmarks.posteriordb import models

Y = np.array([0.3, 1.1, -0.4, 0.8, 2.0])
# Of a normal mean with prior N(0, 1) and known noise 1.
MEAN, SD = Y.sum() / 6.0, 6.0**-0.5


def packed(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path.with_name(f"{path.name}.zip"), "w") as archive:
        archive.writestr(path.name, json.dumps(value))


def draws_of_the_source(seed=0, num_draws=1000):
    rng = np.random.default_rng(seed)
    names = ["mu", "theta[1]", "theta[2]", "L[1,1]", "L[2,1]", "L[2,2]"]
    chains = [
        {name: rng.normal(MEAN, SD, num_draws) + place for place, name in enumerate(names)}
        for _ in range(10)
    ]
    return names, chains


@pytest.fixture
def database(tmp_path):
    """Return a database with the layout of the public one."""
    root = tmp_path / "posterior_database"
    chains = draws_of_the_source()[1]
    listed = [{name: x.tolist() for name, x in chain.items()} for chain in chains]
    about = {"name": "normal-normal", "model_name": "normal", "data_name": "normal"}
    (root / "posteriors").mkdir(parents=True)
    for name, reference in (("normal-normal", "normal-normal"), ("normal-other", None)):
        entry = {**about, "name": name, "reference_posterior_name": reference}
        (root / "posteriors" / f"{name}.json").write_text(json.dumps(entry))
    data = {"N": 5, "y": Y.tolist(), "x": [[1, 2], [3, 4]], "ragged": [[1], [2, 3]], "s": "a"}
    packed(root / "data" / "data" / "normal.json", data)
    draws = root / "reference_posteriors" / "draws"
    packed(draws / "draws" / "normal-normal.json", listed)
    (draws / "info").mkdir()
    (draws / "info" / "normal-normal.info.json").write_text('{"inference": {"method": "x"}}')
    return tmp_path


def as_extract(found, folder, keep=10):
    """Write the extract: every tenth draw, chain after chain, and moments of all draws."""
    folder = folder / found.name
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps({"y": Y.tolist()}))
    (folder / "info.json").write_text(json.dumps({"n_chains": len(found.draws)}))
    kept = found.draws[:, ::keep].reshape(-1, len(found.names))
    backwards = slice(None, None, -1)
    np.savez(
        folder / "reference_draws.npz",
        draws=kept[:, backwards],
        names=np.array(found.names[backwards]),
    )
    rows = [",".join(["parameter", *found.moments])]
    for place, name in enumerate(found.names):
        numbers = [repr(float(values[place])) for values in found.moments.values()]
        rows.append(",".join([f'"{name}"', *numbers]))
    (folder / "reference_summary.csv").write_text("\n".join(rows))
    return folder.parent


# ---------------------------------------------------------------- reading


def test_public_layout(database):
    names, chains = draws_of_the_source()
    for path in (database, str(database / "posterior_database")):
        assert posterior_names(path) == ["normal-normal", "normal-other"]
        found = read_posterior(path, "normal-normal")
        assert found.names == tuple(names)
        expected = np.stack([np.stack(list(c.values()), axis=1) for c in chains])
        np.testing.assert_array_equal(found.draws, expected)
    assert found.data["N"] == 5 and found.data["s"] == "a"
    np.testing.assert_array_equal(found.data["y"], Y)
    assert found.data["x"].shape == (2, 2) and found.data["ragged"] == [[1], [2, 3]]
    assert found.info["model_name"] == "normal"
    assert found.info["reference"]["inference"]["method"] == "x"
    flat = found.draws.reshape(-1, 6)
    np.testing.assert_allclose(found.moments["mean"], flat.mean(axis=0))
    np.testing.assert_allclose(found.moments["sd"], flat.std(axis=0))
    # Draws of the source are independent here.
    np.testing.assert_allclose(found.moments["mcse_mean"], SD / 100, rtol=0.1)


def test_variables_and_arviz(database):
    found = read_posterior(database, "normal-normal")
    variables = found.variables()
    assert {n: v.shape[2:] for n, v in variables.items()} == {
        "mu": (),
        "theta": (2,),
        "L": (2, 2),
    }
    np.testing.assert_array_equal(variables["L"][:, :, 1, 0], found.draws[:, :, 4])
    # The source has no draws of what is zero by its form.
    assert np.isnan(variables["L"][:, :, 0, 1]).all()
    back = scalar_draws(variables)
    assert set(found.names) == set(back) - {"L[1,2]"}
    for column, name in enumerate(found.names):
        np.testing.assert_array_equal(back[name], found.draws[:, :, column])
    results = found.to_arviz()
    np.testing.assert_array_equal(results["posterior"]["theta"].values, variables["theta"])
    np.testing.assert_array_equal(results["constant_data"]["y"].values, Y)


def test_posterior_without_reference(database):
    found = read_posterior(database, "normal-other")
    assert found.names == () and found.data["N"] == 5
    for call in (found.variables, found.to_arviz, lambda: found.compare({})):
        with pytest.raises(InvalidDataError, match="no reference draws of 'normal-other'"):
            call()


def test_extract_has_the_moments_of_all_draws(database, tmp_path):
    found = read_posterior(database, "normal-normal")
    folder = as_extract(found, tmp_path / "extract")
    assert posterior_names(folder) == ["normal-normal"]
    short = read_posterior(folder, "normal-normal")
    assert short.names == found.names
    np.testing.assert_array_equal(short.draws, found.draws[:, ::10])
    for name, values in found.moments.items():
        np.testing.assert_array_equal(short.moments[name], values)
    fit = found.variables() | {"more": np.zeros((10, 1000))}
    whole, part = found.compare(fit), short.compare(fit)
    np.testing.assert_allclose(whole["z_mean"], 0.0, atol=1e-9)
    np.testing.assert_allclose(part["z_sd"], 0.0, atol=1e-9)
    shifted = {name: 1.03 * values for name, values in fit.items()}
    whole, part = found.compare(shifted), short.compare(shifted)
    np.testing.assert_allclose(part["z_sd"], whole["z_sd"], rtol=0.2)
    (folder / "normal-normal" / "reference_draws.npz").unlink()
    assert read_posterior(folder, "normal-normal").names == ()


def rewrite(path, value):
    path.write_text(value) if path.suffix == ".json" else path.write_bytes(value)


BROKEN = {
    "no such data": ("data/data/normal.json.zip", None, "the database lacks .*normal.json"),
    "no archive": ("data/data/normal.json.zip", b"PK", "cannot be read"),
    "no JSON": ("posteriors/normal-normal.json", "{", "cannot be read"),
    "deep JSON": ("posteriors/normal-normal.json", "[" * 200_000, "cannot be read"),
    "a list": ("posteriors/normal-normal.json", "[]", "expected a dict in JSON, got list"),
    "no name of data": ("posteriors/normal-normal.json", "{}", "data_name must be the name"),
    "another folder": (
        "posteriors/normal-normal.json",
        '{"data_name": "../../secret"}',
        "data_name must be the name of a file, got '../../secret'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(database, name):
    file, value, message = BROKEN[name]
    path = database / "posterior_database" / file
    path.unlink()
    if value is not None:
        rewrite(path, value)
    with pytest.raises(CorruptFileError, match=message):
        read_posterior(database, "normal-normal")


@pytest.mark.parametrize(
    "chains", [[], 3, [{"mu": [1.0]}, {"mu": [1.0, 2.0]}], [{"mu": ["a"]}], [{"mu": [1e400]}]]
)
def test_broken_draws(database, chains):
    folder = database / "posterior_database" / "reference_posteriors" / "draws" / "draws"
    packed(folder / "normal-normal.json", chains)
    with pytest.raises(CorruptFileError, match="draws of 'normal-normal'"):
        read_posterior(database, "normal-normal")


def test_wrong_names_and_folders(database, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'normal-norm' among the 2 .* normal-normal"):
        read_posterior(database, "normal-norm")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_posterior(tmp_path / "nowhere", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no posterior in"):
        read_posterior(tmp_path / "empty", "x")


# ---------------------------------------------------------------- comparing


def normal_mean(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", y.size):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_fit_against_its_reference(database):
    """|z| below 6 for a mean and an sd (false alarm 4e-9); another prior is seen."""
    found = read_posterior(database, "normal-normal")
    only = [{"mu": x} for x in found.draws[:, :, 0].tolist()]
    folder = database / "posterior_database" / "reference_posteriors" / "draws" / "draws"
    packed(folder / "normal-normal.json", only)
    found = read_posterior(database, "normal-normal")
    engine = bk.EnsembleHMC(progress=False)
    est = bk.BayesianModel(normal_mean, inference=engine, random_state=0)
    table = found.compare(est.fit(y=found.data["y"]))
    assert list(table.index) == ["mu"] and table.loc["mu", "ess"] > 400
    assert np.abs(table[["z_mean", "z_sd"]].to_numpy()).max() < 6
    assert table.loc["mu", "reference_mean"] == pytest.approx(MEAN, abs=6 * SD / 100)
    assert table.equals(found.compare(est.result_))
    other = bk.BayesianModel(normal_mean, inference=engine, random_state=0).fit(y=Y[:4])
    assert np.abs(found.compare(other)[["z_mean", "z_sd"]].to_numpy()).min() > 6


def skewed_chains(rng, num_parameters, num_chains, num_draws, rho):
    """Stationary chains whose values are exponentials of normal ones of sd 0.5."""
    x = rng.normal(size=(num_parameters, num_chains, num_draws))
    for t in range(1, num_draws):
        x[..., t] = rho * x[..., t - 1] + np.sqrt(1 - rho**2) * x[..., t]
    return {f"x{j}": np.exp(0.5 * one) for j, one in enumerate(x)}


def test_z_is_standard_normal_for_slow_and_skewed_chains(database):
    """Sums of squares of 100 z lie within their law (1e-6 each side); naive errors do not."""
    rng = np.random.default_rng(3)
    draws = skewed_chains(rng, 100, 10, 1000, 0.0)
    chains = [{name: x[c].tolist() for name, x in draws.items()} for c in range(10)]
    folder = database / "posterior_database" / "reference_posteriors" / "draws" / "draws"
    packed(folder / "normal-normal.json", chains)
    found = read_posterior(database, "normal-normal")
    slow = skewed_chains(rng, 100, 4, 2000, 0.7)
    table = found.compare(slow)
    law = stats.chi2(100)
    for column in ("z_mean", "z_sd"):
        assert law.ppf(1e-6) < np.sum(table[column] ** 2) < law.isf(1e-6), column
    naive = (table["mean"] - table["reference_mean"]) / np.hypot(
        table["sd"] / np.sqrt(8000), table["reference_sd"] / 100
    )
    assert np.sum(naive**2) > law.isf(1e-6)
    # A shift of a tenth of an sd is seen in the mean alone, another spread in both.
    moved = found.compare({name: x + 0.1 * x.std() for name, x in slow.items()})
    assert np.sum(moved["z_mean"] ** 2) > law.isf(1e-6)
    np.testing.assert_allclose(moved["z_sd"], table["z_sd"], atol=1e-6)
    wider = found.compare({n: x.mean() + 1.1 * (x - x.mean()) for n, x in slow.items()})
    assert np.sum(wider["z_sd"] ** 2) > law.isf(1e-6)


def test_draws_that_cannot_be_compared(database):
    found = read_posterior(database, "normal-normal")
    good = found.variables()
    with pytest.raises(InvalidDataError, match=re.escape("no draws of ['theta[1]', 'theta")):
        found.compare({name: good[name] for name in ("mu", "L")})
    with pytest.raises(InvalidDataError, match="draws of mu that are not finite"):
        found.compare(good | {"mu": np.full((4, 10), np.nan)})
    with pytest.raises(TypeError, match="a fitted estimator, a Posterior, or a dict"):
        found.compare(3)
    with pytest.raises(InvalidDataError, match="all need the same leading axes"):
        found.compare(good | {"theta": np.zeros((4, 10, 2))})
    still = found.compare(good | {"mu": np.full((10, 1000), MEAN)})
    assert np.isinf(still.loc["mu", ["z_mean", "z_sd"]].astype(float)).all()
    assert still.loc["mu", "ess"] == 0.0 and np.isfinite(still.drop(index="mu")).all(axis=None)


@pytest.mark.slow
@pytest.mark.reference
def test_eight_schools_of_the_public_database(reference_data):
    """|z| below 6 for 10 means and sds (false alarm 4e-8); half the errors are seen."""
    found = read_posterior(
        reference_data / "posteriordb", "eight_schools-eight_schools_noncentered"
    )
    assert found.draws.shape == (10, 100, 10)
    engine = bk.EnsembleHMC(progress=False)
    est = bk.BayesianModel(models.eight_schools, inference=engine, random_state=0)
    sigma = found.data["sigma"].astype(float)
    table = found.compare(est.fit(sigma=sigma, y=found.data["y"].astype(float)))
    assert np.abs(table[["z_mean", "z_sd"]].to_numpy()).max() < 6
    wrong = found.compare(est.fit(sigma=0.5 * sigma, y=found.data["y"].astype(float)))
    assert np.abs(wrong[["z_mean", "z_sd"]].to_numpy()).max() > 6
