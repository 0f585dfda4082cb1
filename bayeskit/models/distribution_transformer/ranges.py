"""What was seen in training, and alarms for what lies outside."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bayeskit.errors import InvalidDataError, OutOfMetaPriorWarning
from bayeskit.models.distribution_transformer.first_sample import FirstSample
from bayeskit.models.distribution_transformer.task import Task

__all__ = ["Seen", "TrainedRange", "observed_range", "sound_alarms"]

# Of priors this share lies outside at each end, for each feature.
_TAIL = 0.0005
# What lies further outside than this share of the range sounds an alarm for a whole batch, and
# so does a larger share of the batch that lies outside at all.
_FAR = 0.25
_EXPECTED_SHARE = 0.01
# Ends are quantiles: what is further out by less than this share of the range is not told.
_SLACK = 0.005
# What training would need; each finding comes with its own.
_WIDER_PRIORS = "a wider meta-prior"


@dataclass
class TrainedRange:
    """Ends of what training has seen.

    Attributes
    ----------
    prior : (2, f) array
        Quantiles 0.0005 and 0.9995 of the features of priors.
    rows : dict of str to (2, m) array
        Smallest and largest value of each number of an observation; of linear observations in
        standard deviations of what the prior predicts.
    example : dict of str to (m,) array
        One observation.
    """

    prior: np.ndarray
    rows: dict[str, np.ndarray]
    example: dict[str, np.ndarray]


def observed_range(task: Task, sample: FirstSample, features: np.ndarray) -> TrainedRange:
    """Return the range of simulations.

    Parameters
    ----------
    task : Task
    sample : FirstSample
    features : (num, f) array
        Of more priors.
    """
    prior = np.quantile(np.asarray(features, np.float64), [_TAIL, 1 - _TAIL], axis=0)
    ends, example = {}, {}
    for name, values in sample.units.items():
        mask = sample.problems.masks[name]
        # No source is without rows in thousands of problems, unless training has none of it.
        kept = np.asarray(values, np.float64)[mask] if mask.any() else values[:, 0]
        rows = np.asarray(sample.problems.rows[name], np.float64)
        ends[name] = np.stack([kept.min(axis=0), kept.max(axis=0)])
        example[name] = rows[mask][0] if mask.any() else rows[0, 0]
    return TrainedRange(prior, ends, example)


class Seen(NamedTuple):
    """Numbers of a call that are compared with those of training, on the host.

    Attributes
    ----------
    features : (batch, f) array
        Of priors.
    units : dict of str to (batch, n, m) arrays
        Rows, in the units in which their range is remembered.
    masks : dict of str to (batch, n) arrays of bool
    vector : (batch, p) array
        Known numbers of the likelihood, scaled to [-1, 1].
    num_components : int
        Of the prior.
    """

    features: np.ndarray
    units: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    vector: np.ndarray
    num_components: int


def sound_alarms(
    task: Task, trained: TrainedRange, seen: Seen, *, strict: bool, stacklevel: int
) -> None:
    """Warn, or raise, where a call is outside of what training has seen.

    Raises
    ------
    InvalidDataError
        With ``strict``.
    """
    findings = _prior_findings(task, trained, seen) + _data_findings(task, trained, seen)
    if not findings:
        return
    text = "; ".join(finding for finding, _ in findings)
    advice = f"train with {' and '.join(dict.fromkeys(cure for _, cure in findings))}"
    if task.kind == "exact":
        advice = (
            "the posterior is exact all the same, as the data are linear and Gaussian; check "
            "the prior and the units"
        )
    elif task.simulator.has_log_likelihood:
        advice = f"refine the posterior (refine='auto'), or {advice}"
    message = (
        f"outside of what the network was trained on: {text}. {advice[0].upper()}{advice[1:]}"
    )
    if strict:
        raise InvalidDataError(message)
    warnings.warn(message, OutOfMetaPriorWarning, stacklevel=stacklevel)


def _prior_findings(task: Task, trained: TrainedRange, seen: Seen) -> list[tuple[str, str]]:
    findings = []
    for name, values, (low, high) in zip(
        task.meta_prior.feature_names(), seen.features.T, trained.prior.T, strict=True
    ):
        findings += _outside(name, values, low, high)
    if task.meta_prior.is_mixture:
        most = task.meta_prior.component_range[1]
        if seen.num_components > most:
            found = f"the prior has {seen.num_components} components, trained with up to {most}"
            findings.append((found, "more num_components in the meta-prior"))
    return findings


def _data_findings(task: Task, trained: TrainedRange, seen: Seen) -> list[tuple[str, str]]:
    findings = []
    for name, values in seen.units.items():
        mask = seen.masks[name]
        most = task.simulator.num_observations[name][1]
        count = int(mask.sum(axis=1).max(initial=0))
        if count > most:
            finding = f"{count} observations of {name!r}, trained with up to {most}"
            findings.append((finding, "a larger num_observations of the simulator"))
        low, high = trained.rows[name]
        middle = 0.5 * (low + high)
        # One number for each problem: that of its row which is furthest outside.
        array = np.where(mask[..., None], values, middle)
        index = np.abs(array - middle).argmax(axis=1)
        worst = np.take_along_axis(array, index[:, None, :], axis=1)[:, 0]
        unit = ", in standard deviations of its prediction," if task.is_linear else ""
        for j in range(worst.shape[-1]):
            label = f"observation {name!r}{unit} number {j}"
            findings += _outside(label, worst[:, j], low[j], high[j])
    for i, (name, (low, high)) in enumerate(task.simulator.parameters.ranges.items()):
        if (np.abs(seen.vector[:, i]) > 1 + 1e-9).any():
            finding = f"parameter {name!r} is outside of [{low:g}, {high:g}]"
            findings.append((finding, "wider parameters of the simulator"))
    return findings


def _outside(name: str, values: np.ndarray, low: float, high: float) -> list[tuple[str, str]]:
    slack = 1e-6 * (1 + abs(low) + abs(high)) + _SLACK * (high - low)
    beyond = np.maximum(low - values, values - high)
    is_out = beyond > slack
    is_far = beyond > slack + _FAR * (high - low)
    # In a large batch a few just outside are to be expected; one far outside is not.
    if not is_far.any() and not is_out.mean() > _EXPECTED_SHARE:
        return []
    first = float(values[beyond.argmax()])
    many = f" for {int(is_out.sum())} of {len(values)} problems" if len(values) > 1 else ""
    return [(f"{name} is {first:.4g}{many}, trained on [{low:.4g}, {high:.4g}]", _WIDER_PRIORS)]
