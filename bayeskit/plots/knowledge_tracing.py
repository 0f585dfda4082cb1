"""A learner's states over time, and calibration of forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    INK,
    MUTED,
    headline,
    new_axes,
    plain,
    short_dates,
    tidy,
)

__all__ = ["calibration", "learner_states"]

# So many components are drawn unless others are asked for.
_FEW = 6
# Components of one colour differ by their dashes.
_DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.2)))
_MAX_LINES = len(COLORS) * len(_DASHES)
# Answers: where those of the first component stand, and how much of it the others need.
_CORRECT, _WRONG, _STUDIED, _STEP = 1.05, -0.05, 0.5, 0.035


def learner_states(states: Any, answers: Any = None, kcs: Any = None, *, ax: Any = None) -> Any:
    """Draw the probability of a correct answer over time with its 95 % band.

    Parameters
    ----------
    states : pandas.DataFrame
        From ``KnowledgeTracer.filter`` or ``smooth``.
    answers : pandas.DataFrame or dict of columns, optional
        The learner's rows (time, kc, correct): correct answers are drawn above, wrong ones
        below, exposures without answer as a small mark between. A row of several components is
        drawn with each. Times are dates if those of ``states`` are.
    kcs : list, optional
        Components to draw, at most 18. Default: the first six; the headline says of how many.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For a component that has no states, too many components, several learners in
        ``answers``, and times of another kind than those of ``states``.

    Examples
    --------
    >>> import pandas as pd
    >>> from bayeskit import plots
    >>> rows = [("sums", 0.0, 0.3, 0.5, 0.7), ("sums", 1.0, 0.5, 0.7, 0.9)]
    >>> states = pd.DataFrame(rows, columns=["kc", "time", "lower", "probability", "upper"])
    >>> ax = plots.learner_states(
    ...     states.set_index(["kc", "time"]), {"time": [0.5], "kc": ["sums"], "correct": [1]}
    ... )
    >>> [text.get_text() for text in ax.get_legend().get_texts()], ax.get_title(loc="left")
    (['sums'], 'probability of a correct answer, 95 % band')
    """
    known = list(states.index.get_level_values("kc").unique())
    chosen = _chosen(known, kcs)
    times = states.index.get_level_values("time")
    is_date = times.dtype.kind == "M" or hasattr(times, "tz")
    ax = new_axes(7.2, 3.4) if ax is None else ax
    own = None if answers is None else _rows_by_kc(answers, is_date)
    # Many bands over each other would hide the lines.
    alpha = min(0.13, 0.3 / max(len(chosen), 1))
    for number, kc in enumerate(chosen):
        color, dashes = COLORS[number % len(COLORS)], _DASHES[number // len(COLORS)]
        rows = states.xs(kc, level="kc")
        when = _naive(rows.index) if is_date else rows.index.to_numpy()
        ax.fill_between(when, rows["lower"], rows["upper"], color=color, alpha=alpha, lw=0)
        ax.plot(when, rows["probability"], color=color, ls=dashes, lw=1.6, label=plain(str(kc)))
        if own is not None:
            _draw_answers(ax, own[own["kc"] == kc], number, color)
    short_dates(ax, times)
    ax.set_xlabel("time (UTC)" if is_date and times.tz is not None else "time")
    of = (
        f", {len(chosen)} of {len(known)} components"
        if kcs is None and len(chosen) < len(known)
        else ""
    )
    headline(ax, f"probability of a correct answer, 95 % band{of}")
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
        handlelength=2.6,
    )
    tidy(ax)
    if own is not None:
        _name_answers(ax, len(chosen))
    return ax


def _chosen(known: list, kcs: Any) -> list:
    if kcs is None:
        return known[:_FEW]
    chosen = [kcs] if isinstance(kcs, str) else list(kcs)
    unknown = [kc for kc in chosen if kc not in known]
    if unknown:
        raise ValueError(f"there are no states of {unknown[0]!r}, only of {known}")
    if len(chosen) > _MAX_LINES:
        raise ValueError(
            f"kcs has {len(chosen)} components, more than {_MAX_LINES} lines cannot be told "
            "apart: draw them in several panels, each with its ax"
        )
    return chosen


def _rows_by_kc(answers: Any, is_date: bool) -> Any:
    """Return time, kc and correct, a row for each component, times as those of the states."""
    import pandas as pd

    names = ["time", "kc", "correct"]
    found = {name: pd.Series(list(answers[name]), dtype=object) for name in names}
    if "learner" in answers:
        learners = list(dict.fromkeys(answers["learner"]))
        if len(learners) > 1:
            raise ValueError(
                f"answers has rows of {len(learners)} learners, such as {learners[0]!r} and "
                f"{learners[1]!r}: give those of the one whose states are drawn"
            )
    several = list | tuple | set | frozenset
    found["kc"] = found["kc"].map(lambda kc: list(kc) if isinstance(kc, several) else kc)
    times = found["time"].infer_objects()
    if is_date != (times.dtype.kind not in "iuf") and len(times):
        kinds = {True: "dates", False: "numbers"}
        raise ValueError(
            f"states have {kinds[is_date]} as times, but answers have {kinds[not is_date]}: "
            "give the rows as the tracer had them"
        )
    found["time"] = _naive(pd.to_datetime(found["time"], utc=True)) if is_date else times
    found["correct"] = pd.to_numeric(found["correct"])
    return pd.DataFrame(found).explode("kc")


def _naive(times: Any) -> np.ndarray:
    """Return dates in UTC without a time zone."""
    import pandas as pd

    return pd.DatetimeIndex(times).tz_localize(None).to_numpy()


def _draw_answers(ax: Any, rows: Any, number: int, color: str) -> None:
    correct = rows["correct"].astype(float).to_numpy()
    studied = np.isnan(correct)
    # Components stand a little apart, so that none hides another.
    place = np.where(studied, _STUDIED, np.where(correct == 1, _CORRECT, _WRONG))
    place = place + _STEP * number * np.sign(place - _STUDIED)
    for marker, which in (("|", ~studied), (".", studied)):
        ax.plot(rows["time"].to_numpy()[which], place[which], marker, color=color, markersize=7)


def _name_answers(ax: Any, num: int) -> None:
    """Name the rows of marks above 1 and below 0, in the middle of each."""
    middle = 0.5 * _STEP * (num - 1)
    ticks = [_WRONG - middle, 0.0, 0.5, 1.0, _CORRECT + middle]
    ax.set_yticks(ticks, ["wrong", "0", "0.5", "1", "correct"])
    for tick in (ax.yaxis.get_major_ticks()[0], ax.yaxis.get_major_ticks()[-1]):
        tick.gridline.set_visible(False)
    if num < 4:
        # The names do not touch the numbers.
        ax.get_yticklabels()[0].set_va("top")
        ax.get_yticklabels()[-1].set_va("bottom")


def calibration(p: Any, correct: Any, *, num_bins: int = 10, ax: Any = None) -> Any:
    """Draw the share of correct answers against the forecast, in bins of equal size.

    Intervals are those of Wilson (1927).

    Parameters
    ----------
    p : array (rows,)
        Forecasts.
    correct : array (rows,)
        Answers; NaN is left out.
    num_bins : int
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For lengths that differ, forecasts that are no probabilities, answers other than 0, 1 or
        NaN, and no answers.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> correct = [1, 0, 0, 0, 0] * 2 + [0, 1, 1, 1, 1] * 2
    >>> ax = plots.calibration(np.repeat([0.2, 0.8], 10), correct, num_bins=2)
    >>> ax.get_title(loc="left"), ax.containers[0][0].get_ydata().tolist()
    ('2 bins of equal size, 95 % intervals', [0.2, 0.8])
    """
    p, y = np.asarray(p, float), np.asarray(correct, float)
    if p.shape != y.shape or p.ndim != 1:
        raise ValueError(
            f"p and correct must be two columns alike, got {p.shape} and {y.shape}"
        )
    seen = ~np.isnan(y)
    if not seen.any():
        raise ValueError("correct has no answers: there is nothing to compare with")
    _refuse("p", p, ~((p >= 0) & (p <= 1)), "between 0 and 1")
    _refuse("correct", y, seen & (y != 0) & (y != 1), "0, 1 or NaN")
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    order = np.argsort(p[seen], kind="stable")
    parts = [part for part in np.array_split(order, num_bins) if len(part)]
    mean = np.array([p[seen][part].mean() for part in parts])
    share = np.array([y[seen][part].mean() for part in parts])
    interval = np.transpose([_wilson(s, len(q)) for s, q in zip(share, parts, strict=True)])
    error = np.abs(interval - share)
    ax = new_axes(4.2, 4.0) if ax is None else ax
    ax.plot([0, 1], [0, 1], color=MUTED, lw=0.8)
    points = {"fmt": "o", "color": COLORS[0], "markersize": 4.5, "lw": 1.2}
    ax.errorbar(mean, share, error, clip_on=False, zorder=3, **points)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="forecast", ylabel="share correct")
    ax.set_aspect("equal")
    headline(ax, f"{len(parts)} bins of equal size, 95 % intervals")
    tidy(ax, "both")
    return ax


def _refuse(name: str, values: np.ndarray, wrong: np.ndarray, wanted: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{name} is {values[row]:g} at row {row}: it must be {wanted}")


def _wilson(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of so many answers."""
    z2 = 1.96**2 / num
    middle = (share + 0.5 * z2) / (1.0 + z2)
    reach = np.sqrt(z2 * share * (1.0 - share) + 0.25 * z2**2) / (1.0 + z2)
    return middle - reach, middle + reach
