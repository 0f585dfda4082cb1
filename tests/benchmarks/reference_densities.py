"""Log densities of the reference posteriors in SciPy, from the equations and the raw data.

Each takes the parameters in the user's coordinates and the stored data. Constants do not
matter, and neither does the Jacobian of an unconstraining transform: it is not part of them.
"""

from __future__ import annotations

import numpy as np
from scipy import integrate, stats
from scipy.stats import cauchy, gamma, lognorm, norm


def eight_schools(p, data):
    theta = p["mu"] + p["tau"] * p["z"]
    prior = norm.logpdf(p["mu"], 0, 5) + cauchy.logpdf(p["tau"], 0, 5)
    likelihood = norm.logpdf(data["y"], theta, data["sigma"]).sum()
    return prior + norm.logpdf(p["z"]).sum() + likelihood


def autoregression(p, data):
    y, k = np.array(data["y"]), data["K"]
    prior = norm.logpdf(p["alpha"], 0, 10) + norm.logpdf(p["beta"], 0, 10).sum()
    prior += cauchy.logpdf(p["sigma"], 0, 2.5)
    means = [p["alpha"] + p["beta"] @ y[t - k : t][::-1] for t in range(k, len(y))]
    return prior + norm.logpdf(y[k:], means, p["sigma"]).sum()


def arma(p, data):
    mu, phi, theta = p["mu"], p["phi"], p["theta"]
    total = norm.logpdf(mu, 0, 10) + norm.logpdf([phi, theta], 0, 2).sum()
    total += cauchy.logpdf(p["sigma"], 0, 2.5)
    previous = error = None
    for y in data["y"]:
        predicted = mu + phi * mu if error is None else mu + phi * previous + theta * error
        previous, error = y, y - predicted
        total += norm.logpdf(error, 0, p["sigma"])
    return total


def garch(p, data):
    total, scale, previous = 0.0, data["sigma1"], None
    for y in data["y"]:
        if previous is not None:
            shock = p["alpha1"] * (previous - p["mu"]) ** 2
            scale = np.sqrt(p["alpha0"] + shock + p["beta1"] * scale**2)
        total += norm.logpdf(y, p["mu"], scale)
        previous = y
    return total


def gaussian_process(p, data):
    x, y = np.array(data["x"], float), np.array(data["y"])
    prior = gamma.logpdf(p["rho"], 25, scale=1 / 4) + norm.logpdf(p["alpha"], 0, 2)
    prior += norm.logpdf(p["sigma"])
    covariance = p["alpha"] ** 2 * np.exp(-((x[:, None] - x) ** 2) / (2 * p["rho"] ** 2))
    covariance += p["sigma"] * np.eye(len(x))
    return prior + stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(y)


def kid_score(p, data):
    hs, iq = np.array(data["mom_hs"], float), np.array(data["mom_iq"])
    b = p["beta"]
    means = b[0] + b[1] * hs + b[2] * iq + b[3] * hs * iq
    prior = cauchy.logpdf(p["sigma"], 0, 2.5)
    return prior + norm.logpdf(data["kid_score"], means, p["sigma"]).sum()


def party_identification(p, data):
    d, b = {name: np.array(values, float) for name, values in data.items()}, p["beta"]
    means = b[0] + b[1] * d["real_ideo"] + b[2] * d["race_adj"]
    for k, coefficient in zip((2, 3, 4), b[3:6], strict=True):
        means = means + coefficient * (d["age_discrete"] == k)
    means = means + b[6] * d["educ1"] + b[7] * d["gender"] + b[8] * d["income"]
    return norm.logpdf(d["partyid7"], means, p["sigma"]).sum()


def lotka_volterra(p, data):
    a, b, c, d = p["theta"]
    path = integrate.solve_ivp(
        lambda t, z: [(a - b * z[1]) * z[0], (d * z[0] - c) * z[1]],
        (0.0, data["ts"][-1]),
        p["z_init"],
        t_eval=[0.0, *data["ts"]],
        rtol=1e-10,
        atol=1e-10,
    ).y.T
    counts = np.vstack([data["y_init"], data["y"]])
    prior = norm.logpdf(p["theta"], [1, 0.05, 1, 0.05], [0.5, 0.05, 0.5, 0.05]).sum()
    prior += lognorm.logpdf(p["sigma"], 1, scale=np.exp(-1)).sum()
    prior += lognorm.logpdf(p["z_init"], 1, scale=10).sum()
    return prior + lognorm.logpdf(counts, p["sigma"], scale=path).sum()


def hidden_markov(p, data):
    transition = np.array([p["theta1"], p["theta2"]])
    total, weights = norm.logpdf(p["mu"], [3, 10], 1).sum(), np.ones(2)
    for t, y in enumerate(data["y"]):
        if t:
            weights = weights @ transition
        weights = weights * norm.pdf(y, p["mu"], 1)
        total += np.log(weights.sum())
        weights /= weights.sum()
    return total


def gaussian_mixture(p, data):
    prior = norm.logpdf(p["mu"], 0, 2).sum() + norm.logpdf(p["sigma"], 0, 2).sum()
    prior += stats.beta.logpdf(p["theta"], 5, 5)
    densities = norm.pdf(np.array(data["y"])[:, None], p["mu"], p["sigma"])
    return prior + np.log(densities @ [p["theta"], 1 - p["theta"]]).sum()


DENSITIES = {
    "eight_schools": eight_schools,
    "arK": autoregression,
    "arma11": arma,
    "garch11": garch,
    "gp_regr": gaussian_process,
    "kidiq": kid_score,
    "nes1972": party_identification,
    "lotka_volterra": lotka_volterra,
    "hmm": hidden_markov,
    "gauss_mix": gaussian_mixture,
}
