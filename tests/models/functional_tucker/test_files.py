"""Estimators as files: what is loaded says the same, and no file runs code."""

import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit import container
from bayeskit.errors import CorruptFileError
from bayeskit.inference.gp_kernels import LogNormal, Matern12, Matern32, White
from bayeskit.models.functional_tucker.transforms import Transform

pytestmark = pytest.mark.filterwarnings(
    "ignore:the evidence lower bound still rose:bayeskit.errors.ConvergenceWarning"
)
NAMES = np.array(["north", "east", "south"])


def make_table(num=60):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {"place": NAMES[rng.integers(0, 3, num)], "x": rng.integers(0, 9, num) / 2}
    )
    y = np.exp(np.sin(X["x"]) * (X["place"] == "north") + 0.1 * rng.normal(size=num))
    return X, y.to_numpy()


MODELS = {
    "CP": bk.FunctionalCP(
        1,
        mean=[bk.MainEffect("x", Matern32(std=LogNormal(1.0, 0.5)) + Matern12(), num_knots=5)],
        kernel={"x": Matern32(lengthscale=2.0)},
        transform=bk.BoxCox(0.25),
        likelihood="student_t",
        max_iter=20,
        num_starts=1,
        random_state=0,
    ),
    "Tucker": bk.FunctionalTucker((2, 1), max_iter=20, num_starts=1, random_state=0),
    "terms": bk.FunctionalCP(
        0,
        mean=[bk.WithinGroup("place", bk.on("x", Matern12())), bk.MainEffect("place", White())],
    ),
    "draws": bk.FunctionalCP(
        1,
        mean="constant",
        engine="gibbs",
        num_draws=8,
        num_warmup=2,
        num_chains=2,
        random_state=0,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_says_the_same(name, tmp_path):
    X, y = make_table()
    model = MODELS[name].fit(X, y)
    model.save(tmp_path / "model.bkit")
    loaded = bk.load(tmp_path / "model.bkit")
    assert type(loaded) is type(model)
    assert loaded.random_state == model.random_state
    assert loaded.names_ == model.names_
    assert loaded.hyperparameters_ == pytest.approx(model.hyperparameters_)
    np.testing.assert_allclose(
        loaded.predict(X, return_std=True), model.predict(X, return_std=True), rtol=1e-9
    )
    draws = [one.sample_y(X, 3, random_state=1) for one in (loaded, model)]
    np.testing.assert_allclose(*draws, rtol=1e-7)
    for attribute in ("elbo_", "core_", "log_evidence_"):
        assert hasattr(loaded, attribute) == hasattr(model, attribute)
        if hasattr(model, attribute):
            np.testing.assert_allclose(
                getattr(loaded, attribute), getattr(model, attribute), rtol=1e-9
            )


def test_what_a_file_cannot_hold(tmp_path):
    class Own(Transform):
        forward = inverse = staticmethod(lambda y: y)
        log_derivative = staticmethod(np.zeros_like)

    X, y = make_table()
    model = bk.FunctionalCP(0, mean="constant", transform=Own()).fit(X, y)
    with pytest.raises(TypeError, match=r"cannot hold the transform .* use pickle"):
        model.save(tmp_path / "model.bkit")


def test_a_changed_file_is_refused(tmp_path):
    X, y = make_table()
    bk.FunctionalCP(0, mean=[bk.MainEffect("x", Matern12())]).fit(X, y).save(
        tmp_path / "a.bkit"
    )
    read = container.read_container(tmp_path / "a.bkit", kinds={"FunctionalCP"})
    term = read.parameters["parameters"]["mean"][0]
    for change in ({"kernel": {"class": "Exotic"}}, {"term": "Effect"}, {"knots": 3}):
        read.parameters["parameters"]["mean"] = [term | change]
        container.write_container(
            tmp_path / "b.bkit", "FunctionalCP", read.parameters, read.arrays
        )
        with pytest.raises(CorruptFileError, match="the file"):
            bk.load(tmp_path / "b.bkit")
