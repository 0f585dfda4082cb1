"""Log-weights of all kinds, one row each, and the uniforms to go with them."""

import numpy as np

REGIMES = ("equal", "sd 1", "sd 4", "one dominates", "half dead", "dead ends")


def log_weights_of_all_regimes(num_particles):
    """Return (6, num_particles) float32 log-weights; with one particle it is alive."""
    rng = np.random.default_rng(num_particles)
    normal = rng.normal(size=(6, num_particles))
    rows = normal * np.array([0, 1, 4, 1, 2, 2])[:, None]
    middle = num_particles // 2
    rows[3, middle] = 200.0
    rows[4, rng.permutation(num_particles)[: num_particles // 2]] = -np.inf
    rows[5, : num_particles // 3] = rows[5, num_particles - num_particles // 3 :] = -np.inf
    return rows.astype(np.float32)


def uniforms(num_rows):
    """Return (num_rows,) uniforms, with both ends among them."""
    u = np.random.default_rng(num_rows).uniform(size=num_rows)
    u[0], u[-1] = 0.0, 1 - 2.0**-53
    return u
