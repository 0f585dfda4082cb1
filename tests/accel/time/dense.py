"""Small asymmetric chains, and what dense normal algebra and brute force say of them."""

import itertools

import numpy as np

from bayeskit import accel

DIM, NUM_OBSERVED = 3, 2


def covariances(rng, size, *shape):
    root = rng.normal(size=(*shape, size, size))
    return root @ np.swapaxes(root, -1, -2) / size + 0.1 * np.eye(size)


def random_chain(num_steps, seed=0, noise=1.0):
    """Every matrix changes with time and none is symmetric; one coordinate is not seen once."""
    rng = np.random.default_rng(seed)
    steps = num_steps - 1
    chain = accel.GaussianChain(
        rng.normal(size=DIM),
        covariances(rng, DIM),
        0.5 * rng.normal(size=(steps, DIM, DIM)),
        covariances(rng, DIM, steps),
        rng.normal(size=(steps, DIM)),
    )
    values = rng.normal(size=(num_steps, NUM_OBSERVED))
    values[num_steps // 2, 0] = np.nan
    if num_steps > 2:
        values[1] = np.nan
    return chain, accel.LinearObservations(
        values,
        rng.normal(size=(num_steps, NUM_OBSERVED, DIM)),
        noise * covariances(rng, NUM_OBSERVED, num_steps),
        rng.normal(size=(num_steps, NUM_OBSERVED)),
    )


def as_sites(observations):
    """The same as natural parameters, and the constant that they leave out."""
    values, matrix, covariance, offset = observations
    seen = ~np.isnan(values)
    y = np.where(seen, values - offset, 0.0)
    precision = np.zeros_like(covariance)
    constant = 0.0
    for t, here in enumerate(seen):
        block = np.ix_(here, here)
        precision[t][block] = np.linalg.inv(covariance[t][block])
        constant -= 0.5 * np.linalg.slogdet(2 * np.pi * covariance[t][block])[1]
    shift = np.einsum("tij,tj->ti", precision, y)
    return accel.GaussianSites(shift, precision, matrix), constant - 0.5 * np.sum(shift * y)


def joint_law(chain, observations):
    """Mean and covariance of all states given all observations, and the log evidence."""
    num_steps, dim = observations.values.shape[0], chain.initial_mean.shape[0]
    mean, cov = chain.initial_mean, chain.initial_covariance
    means = [mean]
    for F, Q, b in zip(chain.transition, chain.covariance, chain.offset, strict=True):
        mean = F @ mean + b
        means.append(mean)
        cross = F @ cov[-dim:]
        cov = np.block([[cov, cross.T], [cross, F @ cov[-dim:, -dim:] @ F.T + Q]])
    return conditioned(np.concatenate(means), cov, observations, (num_steps, dim))


def conditioned(mean, cov, observations, shape):
    (num_steps, dim), size = shape, observations.values.shape[1]
    H = np.zeros((num_steps * size, num_steps * dim))
    R = np.zeros((num_steps * size, num_steps * size))
    for t in range(num_steps):
        rows, columns = np.arange(size) + t * size, np.arange(dim) + t * dim
        H[np.ix_(rows, columns)] = observations.matrix[t]
        R[np.ix_(rows, rows)] = observations.covariance[t]
    seen = ~np.isnan(observations.values.ravel())
    H, R = H[seen], R[np.ix_(seen, seen)]
    residual = (observations.values - observations.offset).ravel()[seen] - H @ mean
    spread = H @ cov @ H.T + R
    gain = np.linalg.solve(spread, H @ cov).T
    log_evidence = -0.5 * (
        residual @ np.linalg.solve(spread, residual) + np.linalg.slogdet(2 * np.pi * spread)[1]
    )
    return (mean + gain @ residual).reshape(shape), cov - gain @ spread @ gain.T, log_evidence


def blocks(cov, shape, lag=0):
    """The covariances of the state at t + lag with that at t."""
    num_steps, dim = shape
    whole = cov.reshape(num_steps, dim, num_steps, dim)
    return np.array([whole[t + lag, :, t] for t in range(num_steps - lag)]).reshape(
        -1, dim, dim
    )


def matern_chain(x, lengthscale=1.0):
    """A Matérn 3/2 process on irregular times: its function and its derivative."""
    rate = np.sqrt(3.0) / lengthscale
    gap = np.diff(x)
    decay = np.exp(-rate * gap)
    u = rate * gap
    A = decay[:, None, None] * np.array([[1 + u, gap], [-(rate**2) * gap, 1 - u]]).transpose(
        2, 0, 1
    )
    stationary = np.diag([1.0, rate**2])
    Q = stationary - A @ stationary @ np.swapaxes(A, 1, 2)
    return accel.GaussianChain(np.zeros(2), stationary, A, Q, np.zeros((len(gap), 2)))


def matern_kernel(x, lengthscale=1.0):
    u = np.sqrt(3.0) / lengthscale * np.abs(x[:, None] - x)
    return (1 + u) * np.exp(-u)


def random_states(num_steps, num_states=3, seed=0):
    """A hidden Markov model with impossible starts, steps and observations."""
    rng = np.random.default_rng(seed)
    initial = rng.dirichlet(np.ones(num_states))
    transition = rng.dirichlet(np.ones(num_states), size=(num_steps - 1, num_states))
    likelihood = rng.uniform(0.1, 2.0, size=(num_steps, num_states))
    initial[1] = 0.0
    transition[:, 0, 2] = 0.0
    likelihood[-1, 0] = 0.0
    with np.errstate(divide="ignore"):
        return accel.HiddenMarkovModel(*map(np.log, (initial, transition, likelihood)))


def path_masses(model):
    """The joint mass of every path with what was seen, (num_states,) * num_steps."""
    num_steps, num_states = model.log_likelihood.shape
    masses = np.zeros((num_states,) * num_steps)
    for path in itertools.product(range(num_states), repeat=num_steps):
        log_mass = model.log_initial[path[0]]
        for t, pair in enumerate(itertools.pairwise(path)):
            log_mass += model.log_transition[t][pair]
        masses[path] = np.exp(log_mass + model.log_likelihood[range(num_steps), path].sum())
    return masses
