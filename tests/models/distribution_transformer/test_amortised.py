"""What holds of any trained network: symmetries, masks, batches, limits."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.errors import InvalidDataError, OutOfMetaPriorWarning
from bayeskit.models.distribution_transformer import GaussianMixtureMetaPrior, Simulator
from tests.models.distribution_transformer.conftest import SMALL

Z = [0.7, -0.2, 1.5]


def difference(a, b):
    """Largest difference of the arrays of two mixtures."""
    return max(np.abs(x - y).max() for x, y in zip(a.mixture, b.mixture, strict=True))


def test_training_has_changed_something(learned, prior):
    # Else most of the tests below could not fail.
    assert difference(learned.posterior(Z, prior=prior), prior) > 0.05
    assert learned.loss_ < learned.start_loss_ - 0.1


def test_components_and_observations_may_be_permuted(learned, prior):
    first = learned.posterior(Z, prior=prior)
    order = [2, 0, 1]
    permuted = bk.GaussianMixture(
        prior.weights[order], prior.means[order], prior.covariances[order]
    )
    again = learned.posterior(Z, prior=permuted)
    assert np.abs(again.weights - first.weights[order]).max() < 1e-5
    assert np.abs(again.means - first.means[order]).max() < 1e-5
    assert difference(learned.posterior(Z[::-1], prior=prior), first) < 1e-5
    # Planted bug: a network that sees each observation with those before it.
    ordered = [learned.posterior(np.cumsum(z), prior=prior) for z in (Z, Z[::-1])]
    assert difference(*ordered) > 1e-3


def test_masked_rows_change_nothing(learned, prior):
    first = learned.posterior(Z, prior=prior)
    masked = learned.posterior([0.7, np.nan, -0.2, 1.5], prior=prior, missing="mask")
    assert difference(masked, first) < 1e-5
    assert difference(learned.posterior(Z[:2], prior=prior), first) > 1e-3


@pytest.mark.parametrize("z", [None, [], [np.nan, np.nan]])
def test_without_data_the_prior_is_returned_exactly(learned, prior, z):
    found = learned.posterior(z, prior=prior, missing="mask")
    assert np.array_equal(found.means, prior.means)
    assert np.array_equal(found.factors, prior.factors)
    assert np.abs(found.weights - prior.weights).max() < 1e-15


def test_absent_components_change_nothing(learned):
    two = bk.GaussianMixture([0.4, 0.6], [-1.0, 1.0], [1.0, 0.5])
    three = bk.GaussianMixture([0.4, 0.6, 0.0], [-1.0, 1.0, 0.0], [1.0, 0.5, 1.0])
    first, second = (learned.posterior(Z, prior=p) for p in (two, three))
    assert np.abs(first.means - second.means[:2]).max() < 1e-5
    assert np.abs(first.weights - second.weights[:2]).max() < 1e-5
    assert second.weights[2] == 0.0


def test_one_component(learned):
    found = learned.posterior(Z, prior=bk.GaussianMixture([1.0], [0.0], [1.0]))
    assert found.num_components == 1
    assert abs(found.mean[0] - 0.5) < 0.2  # Exactly 0.5; the network is small.


def test_more_components_than_trained_are_allowed_with_a_warning(learned):
    weights = np.full(5, 0.2)
    many = bk.GaussianMixture(weights, np.linspace(-1, 1, 5), np.full(5, 0.5))
    with pytest.warns(OutOfMetaPriorWarning, match="5 components, trained with up to 3"):
        assert learned.posterior(Z, prior=many).num_components == 5


def test_alarms_say_what_has_to_be_wider(learned, prior):
    with pytest.warns(
        OutOfMetaPriorWarning, match=r"train with a larger num_observations of the"
    ):
        learned.posterior(np.zeros(6), prior=prior)
    far = bk.GaussianMixture([1.0], [50.0], [1.0])
    advice = "train with a wider meta-prior and a larger num_observations of the simulator"
    with pytest.raises(InvalidDataError, match=advice):
        learned.posterior(np.full(6, 50.0), prior=far, strict=True)


def test_a_batch_equals_single_calls(learned, prior):
    z = np.array([[0.7, -0.2], [1.5, 0.1], [-1.0, 0.3]])[..., None]
    batch = learned.posterior(z, prior=prior)
    assert batch.batch_shape == (3,)
    for i, one in enumerate(z):
        assert difference(batch[i], learned.posterior(one, prior=prior)) < 1e-5
    priors = bk.GaussianMixture([[1.0], [1.0]], [[0.0], [1.0]], [[1.0], [2.0]])
    swapped = learned.posterior(z[0], prior=priors)
    assert swapped.batch_shape == (2,)
    second = bk.GaussianMixture([1.0], [1.0], [2.0])
    assert difference(swapped[1], learned.posterior(z[0], prior=second)) < 1e-5


def test_a_list_has_one_prior_for_each_data_set(learned, prior):
    z = np.array([[0.7, -0.2], [1.5, 0.1]])[..., None]
    one = bk.GaussianMixture([1.0], [1.0], [2.0])
    both = learned.posterior(z, prior=[prior, one])
    for i, given in enumerate((prior, one)):
        alone = learned.posterior(z[i], prior=given)
        u = np.linspace(-2.0, 3.0, 5)[:, None]
        assert np.abs(both[i].log_prob(u) - alone.log_prob(u)).max() < 1e-5
    with pytest.raises(TypeError, match=r"one for each data set, .* got rv_.* at place 1"):
        learned.posterior(z, prior=[prior, stats.norm()])
    with pytest.raises(InvalidDataError, match="batches have different lengths"):
        learned.posterior(z, prior=[prior] * 3)


@pytest.mark.parametrize("name", ["learned", "exact"])
@pytest.mark.parametrize("variance", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("z", [0.0, 50.0])
def test_extremes_give_finite_mixtures(request, name, variance, z):
    estimator = request.getfixturevalue(name)
    wild = bk.GaussianMixture([1e-12, 1 - 1e-12], [0.0, 1.0], [1.0, variance])
    is_ordinary = variance == 1.0 and z == 0.0
    expected = contextlib.nullcontext() if is_ordinary else pytest.warns(OutOfMetaPriorWarning)
    with expected:
        found = estimator.posterior([z * max(1.0, variance**0.5)], prior=wild)
    assert all(np.isfinite(leaf).all() for leaf in found.mixture)


def test_shifts_and_scales_of_everything_are_undone(learned):
    """Shifted prior and data: the same posterior, shifted, to rounding."""
    z = np.array([0.7, -0.2])
    near = bk.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [1.0, 0.5])
    far = bk.GaussianMixture([0.5, 0.5], [99.0, 101.0], [1.0, 0.5])
    first = learned.posterior(z, prior=near)
    with pytest.warns(OutOfMetaPriorWarning, match="mean of the prior"):
        second = learned.posterior(z + 100.0, prior=far)
    assert np.abs(second.means - 100.0 - first.means).max() < 1e-4
    assert np.abs(second.weights - first.weights).max() < 1e-4


def test_densities_integrate_to_one_on_a_warped_support(variance):
    q = variance.posterior([1.5], prior={"concentration": 2.0, "rate": 2.0})
    u = np.linspace(-12.0, 12.0, 4001)
    x = np.exp(u)
    total = np.sum(np.exp(q.log_prob(x[:, None])) * x) * (u[1] - u[0])
    assert abs(total - 1.0) < 1e-6
    without_jacobian = np.sum(np.exp(q.log_prob(x[:, None]))) * (u[1] - u[0])
    assert abs(without_jacobian - 1.0) > 0.1


def test_without_data_a_parametric_prior_is_fitted(variance):
    q = variance.posterior(None, prior={"concentration": 2.0, "rate": 2.0})
    u = np.linspace(-6.0, 10.0, 4001)
    x = np.exp(u)
    log_p = stats.invgamma(2.0, scale=2.0).logpdf(x) + u
    log_q = q.log_prob(x[:, None]) + u
    kl = np.sum(np.exp(log_p) * (log_p - log_q)) * (u[1] - u[0])
    assert 0 <= kl < 0.05


# ---------------------------------------------------------------- parts of components

ONE = bk.GaussianMixture([1.0], [0.5], [2.0])


@pytest.fixture(scope="module")
def counts():
    """Poisson counts of exp(x), nothing trained: what the parts of each component give."""
    return bk.DistributionTransformer(
        Simulator(
            lambda key, x: jax.random.poisson(key, jnp.exp(x)).astype(jnp.float32),
            lambda z, x: z[0] * x[0] - jnp.exp(x[0]),
            num_observations=(1, 4),
        ),
        GaussianMixtureMetaPrior(dim=1, num_components=(1, 3), sharp_share=0.0),
        **SMALL | {"max_steps": 0},
    ).fit()


def divergence_of_counts(z, prior, q):
    """By quadrature."""
    u = np.linspace(-14.0, 10.0, 6001)
    log_p = prior.log_prob(u[:, None]) + np.sum(z) * u - len(z) * np.exp(u)
    log_p -= np.log(np.exp(log_p - log_p.max()).sum() * (u[1] - u[0])) + log_p.max()
    return np.sum(np.exp(log_p) * (log_p - q.log_prob(u[:, None]))) * (u[1] - u[0])


def test_one_component_makes_a_skewed_posterior(counts):
    found = counts.posterior([0.0], prior=ONE)
    assert found.num_components == counts.n_components == 5
    moments = bk.GaussianMixture([1.0], found.mean[None], found.cov[None])
    kl = divergence_of_counts([0.0], ONE, found)
    assert kl < 0.002
    # What one Gaussian can do at best.
    assert divergence_of_counts([0.0], ONE, moments) > 5 * kl


def test_without_data_the_prior_has_as_many_components_as_before(counts, prior):
    for given in (ONE, prior):
        for z in (None, [np.nan, np.nan]):
            found = counts.posterior(z, prior=given, missing="mask")
            assert difference(found, given) < 1e-15


def test_parts_do_not_depend_on_the_order_of_components_or_on_the_batch(counts, prior):
    z = np.array([[0.0, 2.0], [5.0, 3.0]])[..., None]
    u = np.linspace(-4.0, 4.0, 9)[:, None]
    both = counts.posterior(z, prior=prior)
    order = [2, 0, 1]
    permuted = bk.GaussianMixture(
        prior.weights[order], prior.means[order], prior.covariances[order]
    )
    for i, one in enumerate(z):
        first = counts.posterior(one, prior=prior).log_prob(u)
        assert np.abs(counts.posterior(one, prior=permuted).log_prob(u) - first).max() < 1e-6
        assert np.abs(both[i].log_prob(u) - first).max() < 1e-6
    # What the order is not, the observations are.
    assert np.abs(both[0].log_prob(u) - both[1].log_prob(u)).max() > 0.1


def test_a_posterior_is_the_next_prior(counts):
    """As many components again, and one observation at a time gives what all at once do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfMetaPriorWarning)
        first = counts.posterior([0.0], prior=ONE)
        second = counts.posterior([2.0], prior=first)
    assert second.num_components == 5
    assert divergence_of_counts([0.0, 2.0], ONE, second) < 0.015
    assert divergence_of_counts([0.0, 2.0], ONE, first) > 0.05


def test_a_filter_keeps_its_number_of_components(counts):
    z = np.array([0.0, 2.0, np.nan, 1.0])
    found = counts.filter(z, A=1.0, Q=1e-12, x0=ONE, missing="mask")
    assert found.posterior.num_components == 5
    assert divergence_of_counts(z[[0, 1, 3]], ONE, found.posterior[3]) < 0.02
    assert found.posterior[1].mean == pytest.approx(found.posterior[2].mean, abs=1e-9)
