"""Known parameters, and rows to simulate."""

import numpy as np
import pandas as pd

# Shared so that few programs are compiled: three components, two versions, minutes.
SETTINGS = {"time_unit": "minute", "num_steps": 0, "random_state": 0}
PARAMETERS = {
    "level": -0.4,
    "kc_effect": [0.3, -0.2, -0.1],
    "time_scale": [4.0, 2000.0],
    "sd": [0.5, 0.8],
    "rate_change": [0.0, 0.3],
    "gain": [[0.9, 0.7, 0.5], [0.4, 0.6, 0.3]],
    "saturation": [[0.1, 0.1, 0.1], [0.15, 0.05, 0.1]],
    "spacing": [[-0.1, -0.05, 0.0], [-0.1, -0.1, 0.0]],
    "jump_sd": [[0.2, 0.3, 0.2], [0.1, 0.2, 0.1]],
    "ability_sd": 0.8,
    "drift_sd": 0.4,
    "drift_time": 10.0,
}


def design(num_learners, num_rows=32, seed=0, num_kc=3):
    """A table to simulate: short gaps and a few of days, some rows only studied."""
    rng = np.random.default_rng(seed)
    gap = np.where(
        rng.uniform(size=(num_learners, num_rows)) < 0.1,
        rng.exponential(2000.0, (num_learners, num_rows)),
        rng.exponential(0.5, (num_learners, num_rows)),
    )
    return pd.DataFrame(
        {
            "learner": np.repeat(np.arange(num_learners), num_rows),
            "kc": rng.integers(num_kc, size=num_learners * num_rows),
            "time": np.cumsum(gap, axis=1).ravel(),
            "study": rng.uniform(size=num_learners * num_rows) < 0.1,
        }
    )
