"""Laws compose, mismatches are found on the line that builds them, derivations are readable."""

import re

import numpy as np
import pytest

from bayeskit.errors import LawMismatch
from bayeskit.inference import (
    Measure,
    Tagged,
    TemperedPath,
    custom,
    extend,
    law,
    move,
    random,
    resample,
    scan,
    schedule,
    spawn,
    until,
    weigh,
    when,
)
from bayeskit.validation import exact
from tests.inference import finite_models as fm

MODEL = fm.tempered_model()
TARGET = MODEL.target
PATH = TemperedPath(TARGET)
FILTER = fm.filter_blocks(fm.path_model(fm.random_chain()), 2)
FROM_PRIOR = fm.tempering_start(PATH, 2)
LADDER = schedule(PATH, ladder=fm.LADDER)
WEIGH = weigh(PATH.increment)
MOVE = move(MODEL.kernel, PATH, repeats=1)


def coin(key):
    return random.categorical(key, fm.log_table([0.0, 0.0]))


def log_tilt(stage, x):
    return fm.log_table([0.0, -1.0])[x]


# ---------------------------------------------------------------- measures and laws


def test_measures_are_equal_by_structure_and_owner():
    owner = object()
    assert Measure("γ", "t", owner) == Measure("γ", "0", owner).at("t")
    assert Measure("γ", "t", owner) != Measure("γ", "t-1", owner)
    assert Measure("γ", "t", owner) != Measure("γ", "t", object())
    assert Measure("γ").times(log_tilt) != Measure("γ").times(coin)
    assert len({Measure("γ", "t", owner), Measure("γ", "t", owner)}) == 1
    assert Measure("γ") != "γ"


def test_measures_print_their_position_and_factors():
    assert str(Measure("π_λ", "t-1")) == "π_λ[t-1]"
    assert str(Measure("γ").times(log_tilt).times(coin)) == "γ·log_tilt·coin"


def test_kinds_of_law_are_contagious():
    line = law.Law(Measure("γ"))
    assert line.kind is law.PROPERLY_WEIGHTED
    adaptive = line.then(line.measure, "adapts", law.CONSISTENT).then(line.measure, "next")
    assert adaptive.kind is law.CONSISTENT
    unknown = adaptive.then(line.measure, "?", law.UNKNOWN).then(line.measure, "next")
    assert unknown.kind is law.UNKNOWN
    assert unknown.then(line.measure, "adapts", law.CONSISTENT).kind is law.UNKNOWN


# ---------------------------------------------------------------- explain


def test_explain_a_filter():
    block = FILTER.with_resampling(resample("systematic", ess_below=0.5))
    assert block.explain().splitlines() == [
        "spawn 2 independent draws                                  stands for M0",
        "weigh by G0                                                stands for γ[0]",
        "scan over 2 steps:",
        "    resample(systematic, ess<0.5)                              stands for γ[t-1]",
        "    extend by M_t, G_t                                         stands for γ[t]",
        "=> L2 properly weighted for γ[T]: "
        "E[exp(log_evidence) Σ W_i f(x_i)] = γ(f) for every bounded f",
    ]


def test_explain_adaptive_tempering():
    stage = schedule(PATH, ess=0.5) >> WEIGH >> resample() >> MOVE
    block = FROM_PRIOR >> until(PATH.is_complete, stage)
    lines = block.explain().splitlines()
    assert lines[1] == "until the path is complete:"
    assert [re.split(r"\s{2,}", line.strip())[0] for line in lines[2:-1]] == [
        "schedule(ess=0.5)",
        "weigh by likelihood^Δλ",
        "resample(systematic)",
        "move(discrete Metropolis, 1 steps)",
    ]
    assert lines[-1].startswith("=> L10 consistent for π_λ[T]")
    assert "exact once adaptation is frozen" in lines[-1]


@pytest.mark.parametrize(
    ("block", "start", "end"),
    [
        (resample() >> FILTER.extension, "γ[t-1]", "γ[t]"),
        (scan(resample() >> FILTER.extension), "γ[0]", "γ[T]"),
        (LADDER >> WEIGH, "π_λ[t-1]", "π_λ[t]"),
        (until(PATH.is_complete, LADDER >> WEIGH), "π_λ[0]", "π_λ[T]"),
        (resample(num=2) >> move(MODEL.kernel, PATH, keep="all"), "π_λ[t]", "π_λ[t]"),
        (move(MODEL.kernel, TARGET), "π", "π"),
        (resample(), "γ", "γ"),
        (weigh(log_tilt), "γ", "γ·log_tilt"),
    ],
)
def test_explain_a_block_that_waits_for_a_population(block, start, end):
    first, *_, last = block.explain().splitlines()
    assert first == f"given a population that stands for {start}:"
    assert f"for {end}:" in last
    assert block.law is None


# ---------------------------------------------------------------- undeclared functions


def test_undeclared_functions_appear_as_factors():
    proposal = lambda key, stage, x: coin(key)
    block = spawn(coin, 2) >> weigh(log_tilt) >> extend(proposal, log_pair)
    assert str(block.law.measure) == "coin·log_tilt·log_pair"
    assert block.law.kind is law.PROPERLY_WEIGHTED
    # The claim is about what was given, and it holds.
    mass = 0.5 * np.exp([0.0, -1.0]).sum() * 0.5 * np.exp([0.2, 0.7])
    fm.assert_exact(block, exact.Atoms(np.arange(2), mass))


def log_pair(stage, before, after):
    return fm.log_table([0.2, 0.7])[after]


def test_factor_stands_in_the_way_of_what_is_declared_for_another_measure():
    with pytest.raises(
        LawMismatch, match=r"weigh by: G0 starts from M0, .* stands for M0·log_tilt"
    ):
        spawn(FILTER.model.initial, 2) >> weigh(log_tilt) >> weigh(FILTER.model.log_g0)


# ---------------------------------------------------------------- mismatches


def test_move_at_the_wrong_temperature_names_both_measures():
    with pytest.raises(
        LawMismatch,
        match=r"discrete Metropolis leaves π_λ\[t\] invariant, but the population stands for "
        r"π_λ\[t-1\]\. Weigh to π_λ\[t\] first",
    ):
        FROM_PRIOR >> until(PATH.is_complete, LADDER >> MOVE >> WEIGH)


def test_move_on_a_target_that_the_population_does_not_stand_for():
    with pytest.raises(LawMismatch, match=r"leaves π invariant.*stands for π_λ\[0\]"):
        FROM_PRIOR >> move(MODEL.kernel, TARGET, repeats=1)


def test_weigh_from_the_wrong_source():
    twice = LADDER >> WEIGH >> WEIGH
    with pytest.raises(
        LawMismatch,
        match=r"weigh by: likelihood\^Δλ starts from π_λ\[t-1\], .* stands for π_λ\[t\]",
    ):
        FROM_PRIOR >> until(PATH.is_complete, twice)


def test_extend_without_the_first_weighing():
    with pytest.raises(LawMismatch, match=r"scan over 2 steps: starts from γ\[0\], .* for M0"):
        spawn(FILTER.model.initial, 2) >> scan(FILTER.extension)


def test_loop_whose_body_does_not_advance():
    with pytest.raises(
        LawMismatch,
        match=r"scan over 2 steps: one round takes γ\[t-1\] to γ\[t-1\], not to γ\[t\]",
    ):
        FILTER.start >> scan(resample(), range(1, 3), FILTER.model)
    with pytest.raises(LawMismatch, match="until the path is complete: one round takes"):
        FROM_PRIOR >> until(PATH.is_complete, LADDER >> resample(), PATH)


def test_loop_whose_body_multiplies_an_undeclared_factor():
    with pytest.raises(LawMismatch, match=r"to γ\[t\]·log_tilt, not to γ\[t\]"):
        FILTER.start >> scan(FILTER.extension >> weigh(log_tilt))


@pytest.mark.parametrize(
    "before",
    [WEIGH, WEIGH >> resample(ess_below=0.5), WEIGH >> when(lambda p: True, resample())],
)
def test_keeping_all_states_needs_equal_weights(before):
    stage = LADDER >> before >> move(MODEL.kernel, PATH, keep="all", repeats=1)
    with pytest.raises(LawMismatch, match=r"must follow resample.* without ess_below"):
        FROM_PRIOR >> until(PATH.is_complete, stage)


def test_keeping_all_states_as_the_first_block():
    with pytest.raises(LawMismatch, match="must follow resample"):
        move(MODEL.kernel, PATH, keep="all").explain()


@pytest.mark.parametrize(
    "part", [weigh(TemperedPath(TARGET).increment), move(MODEL.kernel, TemperedPath(TARGET))]
)
def test_parts_of_another_path_with_the_same_name(part):
    body = LADDER >> part if part.name == "weigh" else LADDER >> WEIGH >> part
    with pytest.raises(
        LawMismatch, match="of another target or path: build all parts from one object"
    ):
        FROM_PRIOR >> until(PATH.is_complete, body, PATH)


def test_filter_of_another_model_with_the_same_name():
    other = fm.path_model(fm.random_chain())
    with pytest.raises(LawMismatch, match="build all parts from one object"):
        FILTER.start >> scan(extend(other.kernel, other.log_g))


def test_condition_on_a_block_that_changes_the_measure():
    with pytest.raises(LawMismatch, match=r"when: the block inside takes .* must keep the mea"):
        FILTER.start >> when(lambda population: True, weigh(log_tilt))


# ---------------------------------------------------------------- adaptive and unknown laws


def test_condition_on_a_move_is_only_consistent():
    always = lambda population: True
    weighed = FROM_PRIOR >> until(PATH.is_complete, LADDER >> WEIGH >> when(always, resample()))
    assert weighed.law.kind is law.PROPERLY_WEIGHTED
    moved = FROM_PRIOR >> until(PATH.is_complete, LADDER >> WEIGH >> when(always, MOVE))
    assert moved.law.kind is law.CONSISTENT


def test_undeclared_step_makes_the_whole_unknown():
    def double(key, population):
        return population

    block = FROM_PRIOR >> until(PATH.is_complete, LADDER >> WEIGH >> custom(double))
    assert block.law.kind is law.UNKNOWN
    assert "double" in block.explain()
    assert block.explain().splitlines()[-1].startswith("=> L0 unknown")
    inside = FROM_PRIOR >> when(lambda population: True, custom(double, "mine"))
    assert inside.law.kind is law.UNKNOWN
    with pytest.raises(LawMismatch, match="undeclared part, so there is no law to check"):
        exact.weighting_discrepancy(block, MODEL.measure())


def test_declaration_that_lies_is_not_seen_by_laws():
    """What laws cannot see, enumeration does."""
    model = FILTER.model
    lie = Tagged(
        lambda t, before, path: 0.0, model.measure.at("t-1"), model.measure.at("t"), "a lie"
    )
    block = FILTER.start >> scan(extend(model.kernel, lie))
    assert str(block.law.measure) == "γ[T]"
    fm.assert_caught(block, fm.path_measure(fm.random_chain()))
