"""Pairs (init, step) of BlackJAX and of one's own as kernels, under the validator.

Each validation fails a correct kernel with probability at most 1e-6.
"""

import jax
import jax.numpy as jnp
import pytest

import bayeskit as bk
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference.keys import EnumerationKey, Tape
from bayeskit.interop.blackjax import from_blackjax

MODELS = ["correlated_normal"]
blackjax = pytest.importorskip(
    "blackjax", reason="BlackJAX is not installed: pip install '.[bench]'"
)


def matrix(tuning):
    """Return the square root of the metric as a matrix."""
    return jnp.diag(tuning.factor) if tuning.factor.ndim == 1 else tuning.factor


def covariance(tuning):
    return matrix(tuning) @ matrix(tuning).T


def random_walk(log_density, tuning):
    return blackjax.normal_random_walk(log_density, tuning.step_size * matrix(tuning))


def mala(log_density, tuning):
    return blackjax.mala(log_density, 0.05)


def hmc(log_density, tuning):
    return blackjax.hmc(log_density, tuning.step_size, covariance(tuning), 3)


def nuts(log_density, tuning):
    return blackjax.nuts(log_density, tuning.step_size, covariance(tuning), max_num_doublings=4)


def dynamic_hmc(log_density, tuning):
    """Its state holds a key, which says how long the next trajectory is."""
    return blackjax.dynamic_hmc(log_density, tuning.step_size, covariance(tuning))


def ghmc(log_density, tuning):
    """Its state holds a momentum and a slice height, both drawn by init."""
    return blackjax.ghmc(log_density, 0.2, 1.0, alpha=0.3, delta=0.1)


def elliptical_slice(log_density):
    prior = jax.scipy.stats.multivariate_normal
    mean, spread = jnp.ones(2), jnp.array([[3.0, 0.5], [0.5, 5.0]])
    likelihood = lambda x: log_density(x) - prior.logpdf(x, mean, spread)
    return blackjax.elliptical_slice(likelihood, mean=mean, cov=spread)


class TestRightKernelsPass:
    @pytest.mark.parametrize("build", [random_walk, hmc, dynamic_hmc])
    def test_reversible(self, build):
        report = bk.validate(from_blackjax(build), models=MODELS)
        assert report.verdict == "pass", str(report)

    @pytest.mark.slow
    @pytest.mark.parametrize("build", [mala, nuts])
    def test_reversible_slow(self, build):
        report = bk.validate(from_blackjax(build), models=MODELS)
        assert report.verdict == "pass", str(report)

    def test_slice(self):
        report = bk.validate(from_blackjax(elliptical_slice), models=["skewed"])
        assert report.verdict == "pass", str(report)

    def test_momentum_that_init_draws(self):
        report = bk.validate(from_blackjax(ghmc, reversible=False), models=MODELS)
        assert report.verdict == "pass", str(report)


def pair(log_density, *, uphill=False, stale=False, one_sided=False):
    """Return a persistent-momentum Metropolis walk; the switches plant a mistake each."""

    def init(x, key):
        momentum = jax.random.normal(key, x.shape)
        # one_sided: it starts from another law than the one that steps keep
        momentum = jnp.abs(momentum) if one_sided else momentum
        return {"x": x, "momentum": momentum, "log_density": log_density(x)}

    def step(key, state):
        refresh_key, accept_key = jax.random.split(key)
        noise = jax.random.normal(refresh_key, state["x"].shape)
        momentum = 0.6 * state["momentum"] + 0.8 * noise
        proposal = state["x"] + 0.4 * momentum
        value = log_density(proposal)
        ratio = value - state["log_density"]
        # uphill: half the log ratio is forgotten
        ratio = 0.5 * ratio if uphill else ratio
        accepted = jnp.log(jax.random.uniform(accept_key)) < ratio
        # stale: the density of a rejected proposal stays behind
        kept = value if stale else jnp.where(accepted, value, state["log_density"])
        return {
            "x": jnp.where(accepted, proposal, state["x"]),
            "momentum": jnp.where(accepted, momentum, -momentum),
            "log_density": kept,
        }, ()

    return Position.wrap(init, step)


@jax.tree_util.register_pytree_node_class
class Position(dict):
    """A state of one's own: a mapping with a position."""

    @property
    def position(self):
        return self["x"]

    def tree_flatten(self):
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names, values):
        return cls(zip(names, values, strict=True))

    @classmethod
    def wrap(cls, init, step):
        def wrapped_step(key, state):
            new, info = step(key, state)
            return cls(new), info

        return lambda x, key: cls(init(x, key)), wrapped_step


class TestOwnPair:
    def check(self, **planted):
        def build(log_density):
            return pair(log_density, **planted)

        kernel = from_blackjax(build, reversible=False, needs_gradient=False)
        return bk.validate(kernel, models=["skewed"])

    def test_right(self):
        report = self.check()
        assert report.verdict == "pass", str(report)

    def test_wrong_ratio_is_found(self):
        report = self.check(uphill=True)
        assert report.verdict == "fail"
        assert "log density" in report.worst

    def test_stale_cache_is_found(self):
        report = self.check(stale=True)
        assert report.verdict == "fail"
        assert "cached" in report.worst

    def test_momentum_of_the_wrong_law_is_found(self):
        assert self.check(one_sided=True).verdict == "fail"


class TestShape:
    density = bk.Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()

    def test_refresh_keeps_what_was_drawn_and_recomputes_the_rest(self):
        kernel = from_blackjax(ghmc)
        tuning = kernel.default_tuning(2)
        state = kernel.init(jnp.ones(2), self.density)
        state, _ = kernel.step(jax.random.key(1), state, self.density, tuning)
        other = bk.Target(log_density=lambda x: -jnp.sum(jnp.cosh(x))).density()
        fresh = kernel.refresh(state, other)
        assert jnp.array_equal(fresh.guest.momentum, state.guest.momentum)
        assert fresh.guest.slice == state.guest.slice
        assert fresh.guest.logdensity == pytest.approx(float(other(state.position)))
        assert fresh.guest.logdensity != state.guest.logdensity

    def test_first_step_draws_from_its_own_key(self):
        kernel = from_blackjax(ghmc)
        tuning = kernel.default_tuning(2)
        state = kernel.init(jnp.ones(2), self.density)
        momenta = [
            kernel.step(jax.random.key(i), state, self.density, tuning)[0].guest.momentum
            for i in range(2)
        ]
        assert not jnp.array_equal(*momenta)

    def test_algorithm_for_one_density(self):
        algorithm = blackjax.normal_random_walk(self.density, 0.5)
        kernel = from_blackjax(algorithm, name="walk", needs_gradient=False)
        assert repr(kernel) == "walk"
        state = kernel.init(jnp.zeros(2), self.density)
        state, info = kernel.step(jax.random.key(0), state, self.density, None)
        assert state.position.shape == (2,)
        assert 0 <= info.acceptance <= 1

    def test_equal_settings_are_equal_kernels(self):
        assert from_blackjax(hmc) == from_blackjax(hmc)
        assert hash(from_blackjax(hmc)) == hash(from_blackjax(hmc))

    def test_moves_a_population(self):
        target = bk.Target(
            log_prior=lambda x: -0.5 * jnp.sum(x**2) - jnp.log(2 * jnp.pi),
            log_likelihood=lambda x: -jnp.sum((x - 1.0) ** 2),
            sample_prior=lambda key: bk.inference.random.normal(key, (2,)),
        )
        kernel = from_blackjax(hmc)
        block = bk.inference.move(kernel, target, 3, tuning=kernel.default_tuning(2))
        start = bk.inference.run(bk.inference.spawn(target.sample_prior, 100), 0)
        moved, _ = block.run(jax.random.key(0), start)
        assert moved.particles.shape == (100, 2)

    def test_exact_mode_is_refused(self):
        kernel = from_blackjax(random_walk)
        state = kernel.init(jnp.zeros(2), self.density)
        with pytest.raises(UnenumerableDrawError, match="tested by sampling"):
            kernel.step(
                EnumerationKey(Tape(None)), state, self.density, kernel.default_tuning(2)
            )

    def test_cache_that_depends_on_the_tuning_is_refused(self):
        def build(log_density, tuning):
            return blackjax.hmc(
                lambda x: log_density(x / tuning.step_size), 0.1, jnp.ones(2), 1
            )

        with pytest.raises(TypeError, match=r"state.logdensity is computed .* the tuning"):
            from_blackjax(build).init(jnp.zeros(2), self.density)

    def test_bad_input(self):
        with pytest.raises(TypeError, match="pair"):
            from_blackjax(3)
