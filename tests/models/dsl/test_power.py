"""Power tuning, sizes of samples, allocation of labels, marginal effects."""

import numpy as np
import pytest

import bayeskit as bk
from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl import dsl_fit
from bayeskit.models.dsl.allocation import best_probabilities
from tests.models.dsl.panels import documents

FRAME = documents(600, seed=3)
N = len(FRAME)
ONES = np.ones((N, 1))
Y = FRAME.y_true.to_numpy()
LABELED = FRAME.y.notna().to_numpy()
GUESS = FRAME.y_model.to_numpy() * 0.7 + 0.1
X = np.column_stack([ONES, FRAME.x_true, FRAME.z])


def test_lambda_of_a_mean_by_hand():
    """The variance as a quadratic in lambda, at a theta that does not depend on it."""
    share = LABELED.mean()
    found = dsl_fit(Y, ONES, GUESS, labeled=LABELED, model="mean", power_tuning="trace")
    start = dsl_fit(Y, ONES, GUESS, labeled=LABELED, model="mean").coef[0]
    guess, truth = GUESS - start, (Y - start)[LABELED]
    t1 = np.mean((1 / share - 1) * guess**2)
    t2 = 2 * np.sum((1 / share**2 - 1 / share) * guess[LABELED] * truth) / N
    assert found.splits.power[0, 0] == pytest.approx(t2 / (2 * t1), abs=1e-12)
    assert 0.1 < found.splits.power[0, 0] < 0.95
    at = dsl_fit(
        Y, ONES, GUESS, labeled=LABELED, model="mean", power_tuning=found.splits.power[0, 0]
    )
    assert at.coef[0] == pytest.approx(found.coef[0], abs=1e-12)
    assert at.se[0] == pytest.approx(found.se[0], abs=1e-12)


@pytest.mark.parametrize("model", ["linear", "logit"])
def test_each_coefficient_by_its_own_lambda(model):
    together = dsl_fit(
        Y, X, GUESS, labeled=LABELED, model=model, power_tuning=lambda linear, square: 0.3
    )
    fixed = dsl_fit(Y, X, GUESS, labeled=LABELED, model=model, power_tuning=0.3)
    np.testing.assert_allclose(together.coef, fixed.coef, atol=1e-10)
    np.testing.assert_allclose(together.vcov, fixed.vcov, atol=1e-12)
    each = dsl_fit(Y, X, GUESS, labeled=LABELED, model=model, power_tuning="per_coef")
    assert each.splits.power.shape == (1, 3)
    for j, power in enumerate(each.splits.power[0]):
        own = dsl_fit(Y, X, GUESS, labeled=LABELED, model=model, power_tuning=float(power))
        assert each.coef[j] == pytest.approx(own.coef[j], abs=1e-9)
        assert each.se[j] == pytest.approx(own.se[j], abs=1e-9)
    one = dsl_fit(Y, X, GUESS, labeled=LABELED, model=model)
    trace = dsl_fit(Y, X, GUESS, labeled=LABELED, model=model, power_tuning="trace")
    assert np.trace(trace.vcov) < 1.001 * min(np.trace(one.vcov), np.trace(fixed.vcov))


@pytest.mark.parametrize("cluster", [None, np.arange(N) % 100])
def test_lambda_counts_from_two_standard_errors_on(cluster):
    """The error by the jackknife over units or clusters, which is near that of the ratio."""
    share = LABELED.mean()
    kept = []
    for strength in np.linspace(0.0, 2.0, 21):
        noisy = strength * Y + np.random.default_rng(1).normal(size=N)
        settings = {"labeled": LABELED, "model": "mean", "cluster": cluster}
        found = dsl_fit(Y, ONES, noisy, power_tuning="trace", **settings)
        start = dsl_fit(Y, ONES, noisy, **settings).coef[0]
        guess, truth = noisy - start, Y - start
        if cluster is None:
            half = LABELED * guess * truth * (1 / share**2 - 1 / share)
            square = (1 / share - 1) * guess**2
        else:
            rest = np.bincount(cluster, (1 - LABELED / share) * guess)
            half = -np.bincount(cluster, LABELED / share * truth) * rest
            square = rest**2
        without = (half.sum() - half) / (square.sum() - square)
        error = np.sqrt((len(half) - 1) * without.var())
        signal = half.sum() / square.sum() / error
        if abs(signal - 2.0) > 0.1:
            kept.append(signal > 2.0)
            expected = min(half.sum() / square.sum(), 1.0) if kept[-1] else 0.0
            assert found.splits.power[0, 0] == pytest.approx(expected, abs=1e-12)
    assert any(kept) and not all(kept)


def test_worthless_predictions_get_no_weight():
    noise = np.random.default_rng(0).random(N)
    found = dsl_fit(Y, ONES, noise, labeled=LABELED, model="mean", power_tuning="trace")
    gold = dsl_fit(Y, ONES, noise, labeled=LABELED, model="mean", power_tuning=0.0)
    assert found.splits.power[0, 0] == 0.0
    assert (found.coef[0], found.se[0]) == (gold.coef[0], gold.se[0])
    # A planted bug: the sign of the linear part turned makes lambda 0 for good predictions.
    good = dsl_fit(Y, ONES, Y, labeled=LABELED, model="mean", power_tuning="trace")
    assert good.splits.power[0, 0] == pytest.approx(1.0, abs=0.1)


def test_clusters_of_one_row_change_little():
    """Products of sums over clusters estimate what the formulas by row state."""
    plain = dsl_fit(Y, X, GUESS, labeled=LABELED, model="logit", power_tuning="trace")
    rows = dsl_fit(
        Y, X, GUESS, labeled=LABELED, model="logit", power_tuning="trace", cluster=np.arange(N)
    )
    assert abs(plain.splits.power - rows.splits.power)[0, 0] < 0.2


def fit(**settings):
    given = {
        "model": "logit",
        "formula": "y ~ x_true + z",
        "predicted": {"y": "y_model"},
        "learner": "linear",
        "n_repeats": 4,
    }
    return bk.DSLRegressor(**{**given, **settings}).fit(FRAME)


def test_power_table():
    model = fit()
    table = model.power()
    np.testing.assert_allclose(table.iloc[0], model.se_)
    assert table.index[1] == round(1.1 * model.n_labeled_)
    assert (table.diff().iloc[2:] < 0).all(axis=None)
    # The size there is gives the median over splits of their own errors.
    same = model.power([model.n_labeled_]).iloc[1]
    np.testing.assert_allclose(same, np.median(model.split_se_, axis=0))
    with pytest.raises(InvalidDataError, match="would exceed 1"):
        model.power([N + 1])
    # With every row labelled a plain regression is left, but for the noise of the labels.
    full = dsl_fit(Y, X, model="logit").se
    np.testing.assert_allclose(model.power([N]).iloc[1], full, rtol=0.25)


def test_power_foretells_more_labels():
    """Twice the labels, drawn anew: false-alarm rate below 1e-6, errors vary by some 5 %."""
    generator = np.random.default_rng(7)
    large = documents(20_000, seed=8, share=0.05)
    settings = {
        "model": "logit",
        "formula": "y ~ x_true + z",
        "predicted": {"y": "y_model"},
        "features": ["x_model"],
        "learner": "linear",
        "n_repeats": 1,
    }
    small = bk.DSLRegressor(**settings).fit(large)
    more = np.where(generator.random(20_000) < 0.15, large.y_true, large.y)
    fuller = bk.DSLRegressor(**settings).fit(large.assign(y=more))
    foretold = small.power([fuller.n_labeled_]).iloc[1]
    np.testing.assert_allclose(foretold, fuller.se_, rtol=0.2)
    assert (fuller.se_ < 0.7 * small.se_).all()


def test_required_labels_and_effects():
    model = fit()
    se = model.power([400])["z"].iloc[1]
    assert model.required_labels("z", target_se=se * (1 + 1e-9)) <= 400
    effect = model.detectable_effect("z", 400, power=0.9)
    assert abs(model.required_labels("z", effect=effect, power=0.9) - 400) <= 1
    # A test of level 5 % finds (1.96 + 1.2816) errors with probability 0.9.
    assert effect / se == pytest.approx(3.2415, abs=1e-3)
    with pytest.raises(InvalidDataError, match="is out of reach: with 600 labels"):
        model.required_labels("z", target_se=1e-3)
    with pytest.raises(ValueError, match="either target_se or effect"):
        model.required_labels("z")
    with pytest.raises(InvalidDataError, match="term must be one of"):
        model.required_labels("w", target_se=0.1)


def test_fits_without_labels_answer_what_they_can():
    alone = fit(method="surrogate")
    p = 1 / (1 + np.exp(-X @ alone.coef_))
    effect = np.mean(p * (1 - p)) * alone.coef_[2]
    assert alone.marginal_effects("z").loc["z", "estimate"] == pytest.approx(effect, rel=1e-6)
    with pytest.raises(InvalidDataError, match="this fit uses no labels"):
        alone.power()
    with pytest.raises(InvalidDataError, match="the pilot must be fitted with labels"):
        alone.allocate_labels(10)
    assert "these intervals are not valid" in str(alone.summary())


def test_allocation_beats_equal_probabilities():
    generator = np.random.default_rng(0)
    root = generator.gamma(0.5, size=500) + 1e-3
    probability = best_probabilities(root, 100.0, uniform_share=0.2, floor=0.02)
    assert probability.sum() == pytest.approx(100.0, abs=1e-6)
    assert 0.02 * 0.8 <= probability.min() and probability.max() <= 1.0
    assert np.sum(root**2 / probability) < np.sum(root**2 / 0.2)
    # Without limits that bind it is proportional, and no other allocation is better.
    free = best_probabilities(1 + generator.random(50), 5.0, uniform_share=0.0)
    assert np.ptp(free) > 0
    model = fit()
    chosen = model.allocate_labels(150, term="z", learner="linear", floor=0.05)
    assert chosen.sum() == pytest.approx(150, abs=1e-6)
    assert chosen.index.equals(FRAME.index)
    elsewhere = model.allocate_labels(20, FRAME.iloc[:100], learner="linear")
    assert len(elsewhere) == 100
    with pytest.raises(InvalidDataError, match="budget must be above 0"):
        model.allocate_labels(N + 1)


@pytest.mark.slow
def test_allocated_labels_keep_coverage():
    """Binomial(200, 0.95) lies above 175 but with probability below 1e-4; the bound is 165."""
    population = documents(2000, seed=11, share=0.15)
    pilot = bk.DSLRegressor(
        "logit", "y ~ x_true + z", {"y": "y_model"}, learner="linear", n_repeats=1
    ).fit(population)
    probability = pilot.allocate_labels(300, term="z", learner="linear")
    truth = dsl_fit(
        population.y_true,
        np.column_stack([np.ones(2000), population.x_true, population.z]),
        model="logit",
    ).coef[2]
    generator = np.random.default_rng(1)
    inside = 0
    for repeat in range(200):
        labeled = generator.random(2000) < probability
        frame = population.assign(y=np.where(labeled, population.y_true, np.nan))
        model = bk.DSLRegressor(
            "logit",
            "y ~ x_true + z",
            {"y": "y_model"},
            learner="linear",
            n_repeats=1,
            sample_prob=probability.to_numpy(),
            normalize="none",
            random_state=repeat,
        ).fit(frame)
        inside += abs(model.coef_[2] - truth) < 1.96 * model.se_[2]
    assert inside > 165


def test_effects_of_linear_models_are_coefficients():
    model = fit(model="linear", formula="x_true ~ y + z", predicted={"y": "y_model"})
    effects = model.marginal_effects()
    np.testing.assert_allclose(effects.estimate, model.coef_[[1, 2]], atol=1e-8)
    np.testing.assert_allclose(effects.se, model.se_[[1, 2]], atol=1e-8)


def test_effects_of_a_full_logit_by_the_delta_method():
    model = bk.DSLRegressor("logit", "y_true ~ x_true + z").fit(FRAME)
    p = 1 / (1 + np.exp(-X @ model.coef_))
    effect = np.mean(p * (1 - p)) * model.coef_[2]
    own = p * (1 - p) * model.coef_[2] - effect
    slope = np.mean((p * (1 - p) * (1 - 2 * p))[:, None] * X, axis=0) * model.coef_[2]
    slope[2] += np.mean(p * (1 - p))
    influence = own + model.result_.splits.influence @ slope
    found = model.marginal_effects("z").loc["z"]
    assert found.estimate == pytest.approx(effect, rel=1e-6)
    assert found.se == pytest.approx(np.sqrt(np.sum(influence**2)) / N, rel=1e-6)


def test_effects_of_binary_variables_and_classes():
    frame = FRAME.assign(w=(FRAME.z > 0).astype(float))
    model = bk.DSLRegressor("logit", "y_true ~ w").fit(frame)
    means = frame.groupby("w").y_true.mean()
    assert model.marginal_effects().loc["w", "estimate"] == pytest.approx(means[1] - means[0])
    classes = frame.assign(group_true=frame.group)
    multinomial = bk.DSLRegressor("multinomial", "group_true ~ w").fit(classes)
    effects = multinomial.marginal_effects()
    assert list(effects.index) == ["a: w", "b: w", "c: w"]
    assert effects.estimate.sum() == pytest.approx(0, abs=1e-12)
    shares = [(frame.group == "b")[frame.w == w].mean() for w in (0, 1)]
    assert effects.estimate["b: w"] == pytest.approx(shares[1] - shares[0])
    with pytest.raises(InvalidDataError, match="is no covariate"):
        multinomial.marginal_effects("y")


def test_categories_have_no_derivative():
    """Numbers as categories: moved a little they would be none of them, with the effect 0."""
    frame = FRAME.assign(kind=np.arange(N) % 3, flag=np.arange(N) % 2 == 0)
    settings = {"predicted": {"y": "y_model"}, "learner": "linear", "n_repeats": 1}
    model = bk.DSLRegressor("logit", "y ~ z + C(kind) + flag", **settings).fit(frame)
    assert list(model.marginal_effects().index) == ["flag", "z"]
    with pytest.raises(InvalidDataError, match=r"'kind' has categories \[0, 1, 2\]"):
        model.marginal_effects("kind")
    number = frame.assign(flag=frame.flag * 1.0)
    same = bk.DSLRegressor("logit", "y ~ z + C(kind) + flag", **settings).fit(number)
    np.testing.assert_allclose(
        model.marginal_effects("flag"), same.marginal_effects("flag"), rtol=1e-9
    )


def test_categories_without_rows_make_no_column():
    import pandas as pd

    settings = {"predicted": {"y": "y_model"}, "learner": "linear", "n_repeats": 1}
    wide = FRAME.assign(group=pd.Categorical(FRAME.group, categories=list("abcd")))
    found = bk.DSLRegressor("linear", "y ~ group", **settings).fit(wide)
    plain = bk.DSLRegressor("linear", "y ~ group", **settings).fit(FRAME)
    assert found.terms_ == plain.terms_
    np.testing.assert_array_equal(found.coef_, plain.coef_)
