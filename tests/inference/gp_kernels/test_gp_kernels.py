"""Kernels in state-space form against their own covariance functions and equations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, special

from bayeskit.inference.gp_kernels import (
    SHO,
    Constant,
    FreeParameters,
    IntegratedWiener,
    Linear,
    LogNormal,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    QuasiPeriodic,
    Scales,
    chain_of,
    stacked_chain,
)

WIENER = functools.partial(IntegratedWiener, 1.2, 0.7, 0.5, origin=1.0)
KERNELS = {
    "matern12": Matern12(1.3, 0.7),
    "matern32": Matern32(1.3, 0.7),
    "matern52": Matern52(1.3, 0.7),
    "periodic": Periodic(1.2, 1.1, 0.9, num_harmonics=3),
    "underdamped": SHO(1.1, 0.8, 3.0),
    "critical": SHO(1.1, 0.8, 0.5),
    "overdamped": SHO(1.1, 0.8, 0.1),
    "constant": Constant(2.0),
    "linear": Linear(1.5, centre=0.3),
    "wiener": WIENER(num_integrals=0),
    "integrated": WIENER(),
    "twice": WIENER(num_integrals=2),
    "quasiperiodic": QuasiPeriodic(1.0, 1.1, 0.9, 2.0, num_harmonics=1),
    "sum": Matern32(1.3, 0.7) + Linear(0.5) + 2.5 * Matern12(0.4, 3.0),
    "product": WIENER() * Matern32(1.0, 0.7),
}
STATIONARY = [
    "matern12",
    "matern32",
    "matern52",
    "periodic",
    "underdamped",
    "critical",
    "overdamped",
    "constant",
    "quasiperiodic",
]
DRIVEN = ["matern12", "matern32", "matern52", "underdamped", "critical", "overdamped"]
X = np.array([-2.0, -0.6, 0.2, 0.2 + 1e-7, 0.9, 1.4, 3.0, 5.0])


@jax.jit
def facts(kernel, x, gaps):
    """The chain on coordinates, and the covariance function at all pairs."""
    pairs = jax.vmap(jax.vmap(kernel.evaluate, (None, 0)), (0, None))
    return chain_of(kernel, x, gaps), pairs(x, x)


def numbers(kernel):
    return jax.tree.map(np.float64, kernel)


def implied(chain):
    """Covariance of the function values of a chain, by multiplying it out."""
    _, initial, transition, noise, _ = chain.states
    observation = np.asarray(chain.matrix)
    initial, transition, noise = (np.asarray(part) for part in (initial, transition, noise))
    at = [initial]
    for a, q in zip(transition, noise, strict=True):
        at.append(a @ at[-1] @ a.T + q)
    num = len(observation)
    covariance = np.zeros((num, num))
    for i in range(num):
        moved = at[i] @ observation[i, 0]
        for j in range(i, num):
            if j > i:
                moved = transition[j - 1] @ moved
            covariance[i, j] = covariance[j, i] = observation[j, 0] @ moved
    return covariance


@pytest.mark.parametrize("name", KERNELS)
def test_chain_has_the_covariance_of_the_kernel(name, x64):
    chain, exact = facts(numbers(KERNELS[name]), X, np.diff(X))
    exact = np.asarray(exact)
    np.testing.assert_allclose(implied(chain), exact, rtol=0, atol=1e-12 * exact.max())


def test_wrong_noise_has_another_covariance(x64):
    """Planted: process noise of a process that starts anew, and one that is not there."""
    chain, exact = facts(numbers(KERNELS["matern32"]), X, np.diff(X))
    for wrong in (np.zeros((7, 2, 2)), np.broadcast_to(np.eye(2), (7, 2, 2))):
        states = chain.states._replace(covariance=wrong)
        assert np.abs(implied(chain._replace(states=states)) - exact).max() > 0.1


@pytest.mark.parametrize("name", DRIVEN)
def test_solves_its_stochastic_differential_equation(name, x64):
    """A = expm(F D), F P + P F' + L q L' = 0, and Q by the semigroup from 1e-10 to 10."""
    kernel = numbers(KERNELS[name])
    drift, diffusion, stationary = (
        np.asarray(v) for v in (kernel.drift(), kernel.diffusion(), kernel.covariance_at(0.0))
    )
    lyapunov = drift @ stationary + stationary @ drift.T + diffusion
    np.testing.assert_allclose(lyapunov, 0.0, atol=1e-13 * np.abs(diffusion).max())
    both = jax.jit(lambda d: (kernel.transition(0.0, d), kernel.process_noise(0.0, d)))
    for gap in (1e-10, 1e-4, 0.3, 10.0):
        (a1, q1), (a2, q2) = both(gap), both(1.7 * gap)
        a, q = both(2.7 * gap)
        np.testing.assert_allclose(a1, linalg.expm(drift * gap), atol=1e-12)
        np.testing.assert_allclose(a, a2 @ a1, atol=1e-13)
        expected = np.asarray(a2 @ q1 @ a2.T + q2)
        # Each entry to its own precision: a difference of ones would have lost all digits.
        scale = np.sqrt(np.diag(expected))
        error = (np.asarray(q) - expected) / np.outer(scale, scale)
        assert np.abs(error).max() < 2e-13


def test_noise_by_difference_fails_the_same_check(x64):
    """Planted: Q = P - A P A' has no digit right at a gap of 1e-10."""
    kernel = numbers(KERNELS["matern52"])
    a = kernel.transition(0.0, 1e-10)
    p = kernel.covariance_at(0.0)
    assert np.abs((p - a @ p @ a.T)[0, 0] / kernel.process_noise(0.0, 1e-10)[0, 0] - 1) > 0.5


@pytest.mark.parametrize("name", STATIONARY)
def test_any_gap_is_finite_and_positive(name, x64):
    kernel = numbers(KERNELS[name])
    gaps = np.array([0.0, 1e-300, 1e-12, 1e-3, 1.0, 1e3, 1e12, 1e300])
    noise = jax.jit(jax.vmap(lambda d: kernel.process_noise(0.0, d)))(gaps)
    a = jax.jit(jax.vmap(lambda d: kernel.transition(0.0, d)))(gaps)
    slope = jax.jit(jax.vmap(jax.jacrev(lambda d: kernel.process_noise(0.0, d))))(gaps)
    assert np.isfinite(noise).all() and np.isfinite(a).all() and np.isfinite(slope).all()
    for q in np.asarray(noise):
        scale = np.sqrt(np.diag(q))
        scale[scale == 0] = 1.0
        assert np.linalg.eigvalsh(q / np.outer(scale, scale)).min() > -1e-14


@pytest.mark.reference
def test_reference_discretisation(reference_data, x64):
    import json

    case = json.loads((reference_data / "funbat" / "exact_cases.json").read_text())
    case = case["discretisation"]
    sd, length, dt = math.sqrt(case["variance"]), case["lengthscale"], case["dt"]
    for name, kind in (("matern12", Matern12), ("matern32", Matern32), ("matern52", Matern52)):
        kernel, known = kind(sd, length), case[name]
        # Derivative j of the case is lambda^j sigma times our state.
        unit = sd * float(kernel.rate) ** np.arange(kernel.dim)
        to_case = lambda m, u=unit: np.asarray(m) * np.outer(u, u)
        similar = lambda m, u=unit: np.asarray(m) * np.outer(u, 1 / u)
        found = {
            "F": similar(kernel.drift()),
            "A": similar(kernel.transition(0.0, dt)),
            "Q": to_case(kernel.process_noise(0.0, dt)),
            "P_inf": to_case(kernel.covariance_at(0.0)),
            "spectral_density_q": to_case(kernel.diffusion())[-1, -1],
        }
        for what, value in found.items():
            np.testing.assert_allclose(value, known[what], rtol=1e-11, atol=1e-11)


def test_periodic_truncation(x64):
    """The error stays below the stated bound, reaches it, and the weights are Bessel's."""
    distance = np.linspace(0.0, 1.0, 201)
    for length in (0.4, 1.0, 2.0):
        kernel = Periodic(1.5, 1.0, length, num_harmonics=5)
        orders = np.arange(6)
        bessel = special.ive(orders, length**-2) * np.where(orders > 0, 2, 1)
        np.testing.assert_allclose(kernel.weights(), bessel, rtol=1e-12)
        exact = 1.5**2 * np.exp(-2 * np.sin(np.pi * distance) ** 2 / length**2)
        error = np.abs(jax.vmap(kernel.evaluate, (None, 0))(0.0, distance) - exact).max()
        bound = float(kernel.truncation_error())
        assert error <= bound + 1e-14
        # At distance zero all left-out terms have one sign.
        assert error >= 0.999 * bound - 1e-14


def test_stack_of_functions(x64):
    """R functions with their own hyper-parameters, by vmap over kernels of one form."""
    stds, lengths = np.array([1.0, 2.0, 0.5]), np.array([0.3, 1.0, 4.0])
    stacked = stacked_chain(Matern32(stds, lengths), X, np.diff(X))
    assert stacked.states.transition.shape == (7, 6, 6) and stacked.matrix.shape == (8, 3, 6)
    for r in range(3):
        one = chain_of(Matern32(stds[r], lengths[r]), X, np.diff(X))
        block = slice(2 * r, 2 * r + 2)
        np.testing.assert_allclose(
            stacked.states.covariance[:, block, block], one.states.covariance, rtol=1e-14
        )
        np.testing.assert_allclose(
            stacked.states.transition[:, block, block], one.states.transition, rtol=1e-14
        )
        np.testing.assert_allclose(stacked.matrix[:, r, block], one.matrix[:, 0], rtol=1e-14)
    assert np.count_nonzero(stacked.states.covariance[0]) == 3 * 4


# ---------------------------------------------------------------- hyper-parameters


def test_defaults_and_priors():
    kernel = (Matern32() * Periodic(period=1.0) + Linear(0.5)).with_defaults(Scales(10.0, 2.0))
    assert kernel.left.left.std == LogNormal(2.0, 1.0)
    assert kernel.left.left.lengthscale == LogNormal(2.0, 1.0)
    # Only the product of two standard deviations is known.
    assert kernel.left.right.std == 1.0
    free = FreeParameters.of(kernel)
    assert free.names == ("left.left.std", "left.left.lengthscale", "left.right.lengthscale")
    filled = free.fill(np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(filled.left.left.std, 2.0 * np.e, rtol=1e-6)
    np.testing.assert_allclose(filled.right.std, 0.5)
    np.testing.assert_allclose(free.coordinates([2.0 * np.e, 2.0, 1.0]), [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Matern32(-1.0, 1.0), r"Matern32\(std\) must be a positive number"),
        (lambda: Matern32(1.0, np.inf), r"Matern32\(lengthscale\) must be"),
        (lambda: Matern12(LogNormal(0.0), 1.0), r"LogNormal\(median > 0"),
        (lambda: 0.0 * Matern12(), "factor of a kernel"),
        (lambda: Periodic(period=1.0, num_harmonics=0), "num_harmonics must be a whole number"),
        (lambda: IntegratedWiener(num_integrals=3), "num_integrals must be 0, 1 or 2"),
        (lambda: Periodic().with_defaults(Scales()), "Periodic needs period"),
        (lambda: SHO().with_defaults(Scales()), "SHO needs period"),
    ],
)
def test_bad_hyperparameters(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_diffusion_of_a_product(x64):
    kernel = numbers(KERNELS["quasiperiodic"])
    f, p = np.asarray(kernel.drift()), np.asarray(kernel.covariance_at(0.0))
    np.testing.assert_allclose(f @ p + p @ f.T + kernel.diffusion(), 0.0, atol=1e-12)
    with pytest.raises(NotImplementedError, match="use process_noise"):
        KERNELS["product"].diffusion()
    with pytest.raises(TypeError):
        Matern12() + 1.0


def test_gradient_of_the_covariance(x64):
    """By the hyper-parameters, against central differences; a critical oscillator as well."""
    for name in ("matern52", "critical", "periodic"):
        kernel = numbers(KERNELS[name])
        leaves, structure = jax.tree.flatten(kernel)

        def total(leaves, structure=structure):
            chain = chain_of(jax.tree.unflatten(structure, leaves), X, np.diff(X))
            noise = chain.states.covariance
            weights = jnp.arange(1.0, 1.0 + noise.size).reshape(noise.shape)
            return jnp.sum(weights * noise) + jnp.sum(jnp.sin(chain.states.transition))

        value, gradient = jax.jit(total), jax.jit(jax.grad(total))(leaves)
        for i, leaf in enumerate(leaves):
            step = 1e-5 * leaf
            up = value([*leaves[:i], leaf + step, *leaves[i + 1 :]])
            down = value([*leaves[:i], leaf - step, *leaves[i + 1 :]])
            expected = (up - down) / (2 * step)
            np.testing.assert_allclose(gradient[i], expected, rtol=1e-6, atol=1e-6)
