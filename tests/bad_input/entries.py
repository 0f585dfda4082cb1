"""The public entries, each as a function whose default arguments are good input."""

import contextlib
import functools
import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayeskit as bk
from bayeskit import accel, cli
from bayeskit import inference as bi
from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.models.distribution_transformer import GaussianMixtureMetaPrior, LinearGaussian
from bayeskit.models.regression import design_matrix, regression_model, response

NUM = 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NUM, 2))
Y = RNG.normal(size=NUM)
CLASSES = (Y > 0).astype(float)
TIMES = np.arange(NUM) * 1.0
TABLE = {
    "learner": ["ann"] * 4 + ["bob"] * 4,
    "kc": ["sum", "sum", "product", "sum"] * 2,
    "time": [0.0, 0.1, 0.2, 3.0] * 2,
    "correct": [0, 1, 0, 1, 1, 1, 0, 1],
}
LOG_WEIGHTS = np.log([0.1, 0.2, 0.3, 0.4]).astype(np.float32)
SCHEMES = (
    accel.systematic,
    accel.stratified,
    accel.multinomial,
    accel.residual,
    accel.ssp,
)
FILTER = bk.ParticleFilter(16, progress=False)
SMC = bk.SMC(num_particles=96, progress=False)


def linear(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def log_likelihood(b, X, y):
    return -0.5 * jnp.sum((y - X @ b) ** 2)


def target(**parts):
    good = {
        "log_prior": lambda b: -0.5 * jnp.sum(b**2),
        "log_likelihood": log_likelihood,
        "sample_prior": lambda key: random.normal(key, (2,)),
    }
    return bk.Target(**{**good, **parts})


@functools.cache
def _good_state_space():
    return state_space(name="good")


def state_space(**parts):
    """Return a model; without changes the same one each time, so that programs are shared."""
    if not parts:
        return _good_state_space()
    good = {
        "initial": lambda p: dist.Normal(0.0, 1.0),
        "transition": lambda p, x, t, u: dist.Normal(x + u[0], 1.0),
        "observation": lambda p, x, t: dist.Normal(x, p["noise"]),
        "params": {"noise": 1.0},
    }
    return bk.StateSpaceModel(**{**good, **parts})


# ---------------------------------------------------------------- models of the user


def numpyro_model(X=X, y=Y, model=linear, **settings):
    settings = {"inference": SMC, "random_state": 0, **settings}
    return bk.BayesianModel(model, **settings).fit(X, y)


def plain_target(X=X, y=Y, inference=SMC, random_state=0, precision="float64", **parts):
    est = bk.BayesianModel(
        target(**parts), inference=inference, random_state=random_state, precision=precision
    )
    return est.fit(X, y)


def state_space_model(
    X=X,
    y=Y,
    times=None,
    inference=FILTER,
    random_state=0,
    precision="float64",
    **parts,
):
    est = bk.BayesianModel(
        state_space(**parts),
        inference=inference,
        random_state=random_state,
        precision=precision,
    )
    return est.fit(X, y, times=times)


def regression(X=X, y=CLASSES, family="logistic", **settings):
    design, y = design_matrix(X), response(y, family)
    settings = {"inference": SMC, "random_state": 0, **settings}
    return regression_model(family, design.names, **settings).fit(design.values, y)


def command_line(folder, text=None, *options, **columns):
    """Run ``bayeskit fit`` on a table; wrong usage or data raise what the user reads."""
    good = {"x0": X[:, 0], "x1": X[:, 1], "y": CLASSES.astype(int)}
    columns = {**good, **columns}
    if text is None:
        rows = zip(*columns.values(), strict=True)
        text = "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)])
    table = Path(folder) / "table.csv"
    table.write_text(text)
    out, errors = Path(folder) / "out", io.StringIO()
    command = ["fit", str(table), "--target", "y", "--family", "logistic", "--out", str(out)]
    with contextlib.redirect_stderr(errors):
        try:
            code = cli.main([*command, *options])
        except SystemExit as stop:
            code = stop.code
    if code:
        assert code == 2, (code, errors.getvalue())
        assert not out.exists()
        raise InvalidDataError(errors.getvalue())


# ---------------------------------------------------------------- models of the package


def markov_gp(X=X[:, 0], y=Y, noise_std=None, **settings):
    settings = {"kernel": "matern12", "random_state": 0, "progress": False, **settings}
    return bk.MarkovGPRegressor(**settings).fit(X, y, noise_std=noise_std)


def functional_cp(X=X, y=Y, **settings):
    settings = {"rank": 1, "max_iter": 2, "num_starts": 1, "random_state": 0, **settings}
    return bk.FunctionalCP(**settings).fit(X, y)


def functional_tucker(X=X, y=Y, **settings):
    settings = {"ranks": 1, "max_iter": 2, "num_starts": 1, "random_state": 0, **settings}
    return bk.FunctionalTucker(**settings).fit(X, y)


def knowledge_tracer(settings=None, without=(), table=None, **columns):
    table = {**TABLE, **columns} if table is None else table
    if without:
        table = {name: values for name, values in table.items() if name not in without}
    settings = {"num_steps": 1, "random_state": 0, **(settings or {})}
    return bk.KnowledgeTracer(**settings).fit(table)


def dsl(X=X, y=Y, surrogates=None, **settings):
    settings = {"learner": "linear", "n_repeats": 1, "cv": 2, "random_state": 0, **settings}
    return bk.DSLRegressor(**settings).fit(X, y, surrogates=surrogates)


@functools.cache
def _transformer():
    """Return a trained estimator: on linear data the warm start is exact, so no training."""
    return bk.DistributionTransformer(
        LinearGaussian(1.0, 1.0), GaussianMixtureMetaPrior(), random_state=0
    ).fit()


def distribution_transformer(z=(0.3,), prior=None, missing="raise", random_state=0, **settings):
    if settings:
        settings = {"random_state": random_state, **settings}
        return bk.DistributionTransformer(
            LinearGaussian(1.0, 1.0), GaussianMixtureMetaPrior(), **settings
        ).fit()
    prior = bk.GaussianMixture([1.0], [0.0], [1.0]) if prior is None else prior
    return _transformer().posterior(
        np.asarray(z) if isinstance(z, tuple) else z, prior=prior, missing=missing
    )


# ---------------------------------------------------------------- particles


def resampler(log_weights=LOG_WEIGHTS, num=None, key=None):
    """Call each scheme; all of them must refuse."""
    key = accel.as_key(0) if key is None else key
    errors = []
    for scheme in SCHEMES:
        try:
            scheme(key, log_weights, num)
        except (TypeError, ValueError) as error:
            errors.append(error)
    if errors:
        assert len(errors) == len(SCHEMES), errors
        assert len({type(error) for error in errors}) == 1, errors
        raise errors[0]


def block(num_particles=8, scheme="systematic", ess_below=None, key=0, log_g0=None):
    model = bk.FeynmanKac(
        initial=lambda key: random.normal(key, (2,)),
        log_g0=log_g0 or (lambda x: -jnp.sum(x**2)),
        kernel=lambda key, t, x: x + random.normal(key, (2,)),
        log_g=lambda t, before, x: -jnp.sum(x**2),
        num_steps=2,
    )
    start = bi.spawn(model.initial, num_particles) >> bi.weigh(model.log_g0)
    return bi.run(start >> bi.resample(scheme, ess_below=ess_below), key)


def engine(name="SMC", **settings):
    return getattr(bk, name)(**settings)
