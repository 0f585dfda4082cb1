"""A linear Gaussian model on a line, in each form that filters take, and its evidence."""

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import inference as bi
from bayeskit.accel.compilation import quick_jit

DECAY, NOISE = 0.9, 0.49


class LinearGaussian:
    """x_t = 0.9 x_{t-1} + N(0, 1), y_t = x_t + N(0, 0.49), potentials without constants."""

    def __init__(self, num_steps, seed):
        rng = np.random.default_rng(seed)
        self.num_steps, x, y = num_steps, rng.normal(), []
        for t in range(num_steps):
            x = DECAY * x + rng.normal() if t else x
            y.append(x + np.sqrt(NOISE) * rng.normal())
        self.y = np.array(y)

    def log_evidence(self, decay=DECAY):
        """By the Kalman filter."""
        mean, variance, total = 0.0, 1.0, 0.0
        for t, y in enumerate(self.y):
            if t:
                mean, variance = decay * mean, decay**2 * variance + 1.0
            spread = variance + NOISE
            total -= 0.5 * (np.log(spread / NOISE) + (y - mean) ** 2 / spread)
            gain = variance / spread
            mean, variance = mean + gain * (y - mean), variance * (1 - gain)
        return total

    def log_potential(self, t, x):
        return -0.5 * (jnp.asarray(self.y, jnp.result_type(float))[t] - x) ** 2 / NOISE

    def model(self, decay=DECAY):
        normal = jax.scipy.special.ndtri
        return bi.FeynmanKac(
            initial=lambda key: bi.random.normal(key),
            log_g0=lambda x: self.log_potential(0, x),
            kernel=lambda key, t, x: decay * x + bi.random.normal(key),
            log_g=lambda t, before, x: self.log_potential(t, x),
            num_steps=self.num_steps,
            initial_from_uniforms=lambda u: normal(u[0]),
            kernel_from_uniforms=lambda t, x, u: decay * x + normal(u[0]),
        )

    def dynamics(self):
        return bi.GaussianDynamics(
            initial_mean=jnp.zeros(1),
            initial_covariance=jnp.eye(1),
            mean=lambda t, x: DECAY * x,
            covariance=lambda t: jnp.eye(1),
            log_potential=lambda t, x: self.log_potential(t, x[0]),
            num_steps=self.num_steps,
        )


class LinearGaussianPlane:
    """The same in the plane: x_t = A x_{t-1} + N(0, I), y_t = x_t + N(0, 0.49 I)."""

    MATRIX = np.array([[0.8, 0.3], [-0.2, 0.7]])

    def __init__(self, num_steps, seed):
        rng = np.random.default_rng(seed)
        self.num_steps, x, y = num_steps, rng.normal(size=2), []
        for t in range(num_steps):
            x = self.MATRIX @ x + rng.normal(size=2) if t else x
            y.append(x + np.sqrt(NOISE) * rng.normal(size=2))
        self.y = np.array(y)

    def log_evidence(self):
        """By the Kalman filter."""
        mean, covariance, total = np.zeros(2), np.eye(2), 0.0
        for t, y in enumerate(self.y):
            if t:
                mean = self.MATRIX @ mean
                covariance = self.MATRIX @ covariance @ self.MATRIX.T + np.eye(2)
            spread = covariance + NOISE * np.eye(2)
            surprise = np.linalg.solve(spread, y - mean)
            total -= 0.5 * (np.log(np.linalg.det(spread / NOISE)) + (y - mean) @ surprise)
            mean = mean + covariance @ surprise
            covariance = covariance - covariance @ np.linalg.solve(spread, covariance)
        return total

    def log_potential(self, t, x):
        y = jnp.asarray(self.y, jnp.result_type(float))[t]
        return -0.5 * jnp.sum((y - x) ** 2) / NOISE

    def model(self):
        normal = jax.scipy.special.ndtri
        ahead = lambda x: jnp.asarray(self.MATRIX, x.dtype) @ x
        return bi.FeynmanKac(
            initial=lambda key: bi.random.normal(key, (2,)),
            log_g0=lambda x: self.log_potential(0, x),
            kernel=lambda key, t, x: ahead(x) + bi.random.normal(key, (2,)),
            log_g=lambda t, before, x: self.log_potential(t, x),
            num_steps=self.num_steps,
            initial_from_uniforms=normal,
            kernel_from_uniforms=lambda t, x, u: ahead(x) + normal(u),
            uniform_dim=2,
        )


def log_evidences(block, num_runs, key=0):
    """The log evidence (num_runs,) of independent runs."""
    runs = jax.vmap(lambda k: block.run(k)[0].log_evidence)
    keys = jax.random.split(jax.random.key(key), num_runs)
    return np.asarray(quick_jit(runs, optimised=False)(keys), float)


def log_errors(block, model, num_runs, key=0):
    """Their errors."""
    return log_evidences(block, num_runs, key) - model.log_evidence()


def z_of_evidence(errors):
    """How many standard errors the mean of exp(errors) is away from 1."""
    ratio = np.exp(errors)
    return (ratio.mean() - 1) / ratio.std() * np.sqrt(len(ratio))
