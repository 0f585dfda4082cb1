"""What every public entry does with bad input, row by row.

Each row is one kind of input. For each entry it says what happens: the error with its message,
which other test shows what holds where the input is accepted, or why it cannot occur.
"""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import sparse

from bayeskit.errors import (
    DegenerateWeightsError,
    ImproperPriorError,
    InvalidDataError,
    InvalidWeightsError,
)
from tests.bad_input import entries
from tests.bad_input.entries import CLASSES, LOG_WEIGHTS, NUM, TIMES, X, Y

ENTRIES = {
    "NumPyro model": entries.numpyro_model,
    "Target": entries.plain_target,
    "StateSpaceModel": entries.state_space_model,
    "regression": entries.regression,
    "command line": entries.command_line,
    "MarkovGPRegressor": entries.markov_gp,
    "FunctionalCP": entries.functional_cp,
    "FunctionalTucker": entries.functional_tucker,
    "KnowledgeTracer": entries.knowledge_tracer,
    "DSLRegressor": entries.dsl,
    "DistributionTransformer": entries.distribution_transformer,
    "resampling": entries.resampler,
    "blocks": entries.block,
    "engines": entries.engine,
}


@dataclass(frozen=True)
class Refused:
    """One call that must raise; ``match`` is searched in the message."""

    error: type[Exception]
    match: str
    arguments: dict = field(repr=False)


@dataclass(frozen=True)
class Shown:
    """Accepted, or refused elsewhere: the test that shows what holds."""

    test: str


@dataclass(frozen=True)
class Absent:
    """The row cannot occur here."""

    reason: str


def refused(match, error=InvalidDataError, **arguments):
    return Refused(error, match, arguments)


def put(array, place, value):
    array = np.array(array, float)
    array[place] = value
    return array


NAN, INF = np.nan, np.inf
BAYESIAN = "tests/models/test_bayesian.py::"
STATES = "tests/models/test_state_space.py::"
GP = "tests/models/markov_gp/test_markov_gp.py::"
GP_EXACT = "tests/models/markov_gp/test_exactness.py::"
CP = "tests/models/functional_tucker/test_functional_cp.py::"
STATE_SPACE = "tests/models/test_state_space.py::"
TUCKER = "tests/models/functional_tucker/test_functional_tucker.py::"
TRACER = "tests/models/knowledge_tracing/test_tracer.py::"
GRAPHS = "tests/models/knowledge_tracing/test_graphs.py::"
DSL = "tests/models/dsl/test_bad_input.py::"
AMORTISED = "tests/models/distribution_transformer/test_door.py::"
SCHEME = "tests/accel/test_resampling.py::"
BLOCKS = "tests/inference/test_blocks.py::"
ENGINES = "tests/inference/test_engines.py::"
ACCEPTED = "tests/bad_input/test_accepted.py::"
PROPERTIES = "tests/bad_input/test_properties.py::"

NO_TABLE = Absent("takes no table of data")
PARTICLES = dict.fromkeys(("resampling", "blocks", "engines"), NO_TABLE)
USERS_MODEL = Absent("the user's own function says what its arguments are")
NO_TIMES = Absent("has no times")
NO_IDS = Absent("has no labels of groups")


def everywhere(default, **cells):
    """Return a row whose cells are the default but for those that are named."""
    names = {name.replace(" ", "_"): name for name in ENTRIES}
    unknown = set(cells) - set(names)
    assert not unknown, unknown
    return {name: cells.get(short, default) for short, name in names.items()} | {
        name: cell for name, cell in PARTICLES.items() if name.replace(" ", "_") not in cells
    }


def both_bayesian(cell):
    return {"NumPyro_model": cell, "Target": cell}


def both_tensors(*cells):
    return {"FunctionalCP": cells, "FunctionalTucker": cells}


def arrays(*cells):
    """Return the same cells for all entries that take arrays through one door."""
    names = ("NumPyro_model", "Target", "StateSpaceModel", "MarkovGPRegressor")
    return dict.fromkeys((*names, "FunctionalCP", "FunctionalTucker", "DSLRegressor"), cells)


def on_first_column(array):
    return array[:, 0]


TABLE = {}

TABLE["NaN in X or y"] = everywhere(
    None,
    NumPyro_model=(
        refused(r"X contains NaN at row 3, column 1 \(1 of 24", X=put(X, (3, 1), NAN)),
        refused(r"y contains NaN at row 5 \(1 of 12", y=put(Y, 5, NAN)),
    ),
    Target=(
        refused(r"X contains NaN at row 3, column 1 \(1 of 24", X=put(X, (3, 1), NAN)),
        refused(r"y contains NaN at row 5 \(1 of 12", y=put(Y, 5, NAN)),
    ),
    StateSpaceModel=(
        refused("X contains NaN at row 3, column 1", X=put(X, (3, 1), NAN)),
        refused("times contains NaN at row 3", times=put(TIMES, 3, NAN)),
        Shown(STATES + "test_missing_observations_are_marginalised"),
    ),
    regression=(
        refused("column 'x1' contains NaN at row 3 .1 of 12", X=put(X, (3, 1), NAN)),
        refused("column 'y' contains NaN at row 5", y=put(CLASSES, 5, NAN)),
    ),
    command_line=refused("column 'x1' contains NaN at row 1", x1=[1.0, "", *range(10)]),
    MarkovGPRegressor=(
        refused("X contains NaN at row 3", X=put(X[:, 0], 3, NAN)),
        refused("noise_std contains NaN at row 3", noise_std=put(np.ones(NUM), 3, NAN)),
        Shown(GP + "test_missing_values_tell_nothing"),
    ),
    FunctionalCP=(
        refused("X contains NaN at row 3, column 1", X=put(X, (3, 1), NAN)),
        Shown(CP + "test_rows_without_y_are_counted"),
    ),
    FunctionalTucker=(
        refused("X contains NaN at row 3, column 1", X=put(X, (3, 1), NAN)),
        Shown(TUCKER + "test_missing_observations_are_counted_and_tell_nothing"),
    ),
    KnowledgeTracer=(
        refused("time is nan at row 1 .2 rows.: times must be", time=[0, NAN, 0.2, 3] * 2),
        refused("learner is missing, first at row 0", learner=[None] + ["a"] * 7),
        Shown(TRACER + "test_rows_keep_their_answers"),
    ),
    DSLRegressor=(
        refused("X contains NaN at row 3, column 1", X=put(X, (3, 1), NAN)),
        refused("nothing to predict 'y' from", y=put(Y, 3, NAN)),
        refused("surrogates contains NaN at row 3", surrogates=put(Y, 3, NAN)),
    ),
    DistributionTransformer=(
        refused(r"z\['z'\] contains nan at index \(0, 0\)|contains nan at index", z=(NAN,)),
    ),
    resampling=refused(
        "log_weights contains nan: 1 of 4",
        InvalidWeightsError,
        log_weights=put(LOG_WEIGHTS, 2, NAN).astype(np.float32),
    ),
    blocks=Shown(BLOCKS + "test_nan_potential_is_counted"),
)

TABLE["infinities"] = everywhere(
    None,
    **arrays(
        refused("X contains inf at row 3", X=put(X, (3, 1), INF)),
        refused("y contains -inf at row 5", y=put(Y, 5, -INF)),
    )
    | {
        "MarkovGPRegressor": (
            refused("X contains inf at row 3", X=put(X[:, 0], 3, INF)),
            refused("y contains -inf at row 5", y=put(Y, 5, -INF)),
            refused("noise_std contains inf at row 5", noise_std=put(Y, 5, INF)),
        )
    },
    regression=(
        refused("column 'x1' contains inf at row 3", X=put(X, (3, 1), INF)),
        refused("column 'y' contains -inf at row 5", y=put(CLASSES, 5, -INF)),
    ),
    command_line=refused("column 'x1' contains inf at row 0", x1=["inf", *X[1:, 1]]),
    KnowledgeTracer=(
        refused("time is inf at row 1", time=[0, INF, 0.2, 3] * 2),
        refused("correct is inf at row 2", correct=[0, 1, INF, 1] * 2),
    ),
    DistributionTransformer=refused("contains inf at index", z=(INF,), missing="mask"),
    resampling=refused(
        r"\+inf: 1 of 4",
        InvalidWeightsError,
        log_weights=put(LOG_WEIGHTS, 2, INF).astype(np.float32),
    ),
    blocks=Shown("tests/inference/test_infinite.py::test_a_filter_names_the_time"),
    engines=Shown(ENGINES + "TestBadInput::test_an_infinite_likelihood_is_refused"),
)

TABLE["dimensions and columns"] = everywhere(
    None,
    NumPyro_model=Shown(BAYESIAN + "test_scikit_learn_manners"),
    Target=USERS_MODEL,
    StateSpaceModel=refused(r"y must have shape \(num_steps,\)", y=np.stack([Y, Y], 1)),
    regression=(
        refused("must have rows and columns, got an array of shape", X=np.zeros((NUM, 2, 2))),
        refused("no predictors: name at least one", X=np.zeros((NUM, 0))),
        refused("column 'y' must have one axis", y=np.stack([CLASSES, CLASSES], 1)),
    ),
    command_line=Shown("tests/test_cli.py::TestBadInput::test_unknown_column"),
    MarkovGPRegressor=(
        refused(r"in one column; got shape \(12, 2\)", X=X),
        refused("y should be a 1d array", ValueError, y=np.stack([Y, Y], 1)),
    ),
    **both_tensors(
        refused(r"one column for each mode; got shape \(12, 2, 2\)", X=np.zeros((NUM, 2, 2))),
        refused(r"one column for each mode; got shape \(12, 0\)", X=np.zeros((NUM, 0))),
        refused("y should be a 1d array", ValueError, y=np.stack([Y, Y], 1)),
    ),
    KnowledgeTracer=(
        refused(r"'time' must be one column, got shape \(8, 2\)", time=np.zeros((8, 2))),
        refused("the table has no column 'kc'", without=("kc",)),
        refused("must be a DataFrame or a dict of columns", table=np.zeros((3, 3))),
    ),
    DSLRegressor=(
        refused(r"X must have shape \(rows, columns\)", X=np.zeros((NUM, 2, 2))),
        refused(r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum", X=np.zeros((NUM, 0))),
        refused(r"y must have shape \(rows,\)", y=np.stack([Y, Y], 1)),
    ),
    DistributionTransformer=refused(r"must have shape \(n, 1\)", z=np.zeros((2, 2))),
    resampling=refused("must have a last axis", ValueError, log_weights=np.float32(1.0)),
)

LONGER = refused(
    "X and y must have the same number of rows, got X with 12 and y with 24", y=np.append(Y, Y)
)
TABLE["y longer than X"] = everywhere(
    None,
    **arrays(LONGER),
    regression=refused(
        "same number of rows, got X with 12 and y with 24", y=np.append(CLASSES, CLASSES)
    ),
    command_line=Absent("X and y are columns of one table"),
    KnowledgeTracer=refused("differ in length: learner has 8 rows, time has 2", time=[0, 1]),
    DistributionTransformer=refused("unknown sources", z={"z": np.zeros(2), "w": np.zeros(3)}),
)

NO_ROWS = {"X": X[:0], "y": Y[:0]}
TABLE["no rows, particles, chains or draws"] = everywhere(
    None,
    **arrays(refused(r"X has no rows \(shape \(0, 2\)\): at least 1", **NO_ROWS))
    | {"MarkovGPRegressor": refused("X has no rows", X=X[:0, 0], y=Y[:0])},
    regression=refused("the table has 0 rows: at least 2", **NO_ROWS),
    command_line=refused("has 0 rows|no rows", text="x0,x1,y\n"),
    KnowledgeTracer=refused("at least 1 is needed", learner=[], kc=[], time=[], correct=[]),
    DistributionTransformer=Absent("no observation leaves the prior, which is the answer"),
    resampling=refused("must hold at least 1", ValueError, log_weights=np.zeros(0, "f4")),
    blocks=refused("num_particles must be a whole number >= 1", ValueError, num_particles=0),
    engines=tuple(
        refused(f"{setting} must be a whole number >= ", ValueError, name=name, **{setting: 0})
        for name, setting in (
            ("SMC", "num_particles"),
            ("NUTS", "num_draws"),
            ("NUTS", "num_chains"),
            ("EnsembleHMC", "num_chains"),
            ("EnsembleHMC", "num_draws"),
            ("ParallelTempering", "num_chains"),
            ("ParticleFilter", "num_particles"),
            ("PMMH", "num_particles"),
            ("ParticleGibbs", "num_draws"),
            ("SMC2", "num_parameters"),
        )
    ),
)

TABLE["one row"] = everywhere(
    None,
    NumPyro_model=Shown(ACCEPTED + "test_one_row"),
    Target=Shown(ACCEPTED + "test_one_row"),
    StateSpaceModel=Shown(ACCEPTED + "test_one_row"),
    regression=refused("the table has 1 rows: at least 2", X=X[:1], y=CLASSES[:1]),
    command_line=refused("has 1 rows: at least 2|holds one class", text="x0,x1,y\n1,2,0\n"),
    MarkovGPRegressor=Shown(GP + "test_degenerate_data"),
    FunctionalCP=Shown(CP + "test_small_data"),
    FunctionalTucker=Shown(TUCKER + "test_small_data"),
    KnowledgeTracer=Shown(TRACER + "test_smallest_tables"),
    DSLRegressor=refused("is determined by the columns before|1 sample|rows", X=X[:1], y=Y[:1]),
    DistributionTransformer=Shown("tests/models/distribution_transformer/test_amortised.py::"),
)

TABLE["one particle"] = everywhere(
    Absent("its engine holds the particles"),
    resampling=Shown(SCHEME + "test_sizes"),
    blocks=Shown(BLOCKS + "test_one_particle_is_allowed"),
    engines=Shown(ENGINES + "test_one_particle_is_importance_sampling"),
)

TABLE["one class in y"] = everywhere(
    Absent("is no classifier"),
    NumPyro_model=USERS_MODEL,
    Target=USERS_MODEL,
    regression=refused(r"holds one class only \(1\)", y=np.ones(NUM)),
    command_line=refused("column 'y' holds one class only", y=[1] * NUM),
    KnowledgeTracer=Shown(ACCEPTED + "test_answers_of_one_kind"),
    DSLRegressor=Shown(DSL + "test_constant_labels_in_training_are_predicted"),
)

CONSTANT = put(X, (slice(None), 1), 3.0)
TABLE["constant column"] = everywhere(
    None,
    NumPyro_model=Shown(ACCEPTED + "test_a_column_that_says_nothing_keeps_its_prior"),
    Target=Shown(ACCEPTED + "test_a_column_that_says_nothing_keeps_its_prior"),
    StateSpaceModel=USERS_MODEL,
    regression=refused("column 'x1' is constant: it cannot be told from", X=CONSTANT),
    command_line=refused("column 'x1' is constant", x1=[3] * NUM),
    MarkovGPRegressor=Shown(GP + "test_degenerate_data"),
    FunctionalCP=Shown(CP + "test_small_data"),
    FunctionalTucker=Shown(TUCKER + "test_small_data"),
    KnowledgeTracer=Shown(TRACER + "test_smallest_tables"),
    DSLRegressor=refused("'x1' is determined by the columns before it", X=CONSTANT),
    DistributionTransformer=Absent("has observations, no columns"),
)

TABLE["constant y"] = everywhere(
    None,
    NumPyro_model=USERS_MODEL,
    Target=USERS_MODEL,
    StateSpaceModel=USERS_MODEL,
    regression=Shown(ACCEPTED + "test_constant_response"),
    command_line=Shown(ACCEPTED + "test_constant_response"),
    MarkovGPRegressor=Shown(GP + "test_degenerate_data"),
    FunctionalCP=Shown(CP + "test_small_data"),
    FunctionalTucker=Shown(TUCKER + "test_small_data"),
    KnowledgeTracer=Shown(ACCEPTED + "test_answers_of_one_kind"),
    DSLRegressor=Shown(DSL + "test_constant_labels_in_training_are_predicted"),
    DistributionTransformer=Absent("equal observations are ordinary ones"),
)

TABLE["collinear columns"] = everywhere(
    None,
    NumPyro_model=USERS_MODEL,
    Target=USERS_MODEL,
    StateSpaceModel=USERS_MODEL,
    regression=Shown(ACCEPTED + "test_collinear_columns_warn"),
    command_line=Shown(ACCEPTED + "test_collinear_columns_warn"),
    MarkovGPRegressor=Absent("has one coordinate"),
    FunctionalCP=Absent("columns are modes: a repeated one is another mode"),
    FunctionalTucker=Absent("columns are modes: a repeated one is another mode"),
    KnowledgeTracer=Absent("has no design matrix"),
    DSLRegressor=refused("'x1' is determined by the columns before", X=X[:, [0, 0]]),
    DistributionTransformer=Absent("has no design matrix"),
)

HUGE = X / np.abs(X).max() * 1.7e308
TABLE["magnitudes beyond double precision"] = everywhere(
    None,
    NumPyro_model=USERS_MODEL,
    Target=USERS_MODEL,
    StateSpaceModel=USERS_MODEL,
    regression=(
        refused("'x0' is too large to be scaled .* rescale it", X=HUGE),
        refused("too large for double precision: rescale", family="linear", y=HUGE[:, 0]),
        Shown(PROPERTIES + "test_affine_maps_of_predictors"),
    ),
    command_line=refused("is too large to be scaled", x1=list(HUGE[:, 0])),
    MarkovGPRegressor=(
        refused("more than double precision can compare: give X in another unit", X=HUGE[:, 0]),
        refused("beyond double precision: give y in another unit", y=HUGE[:, 0]),
        Shown(GP + "test_learned_hyperparameters_follow_the_units"),
    ),
    **both_tensors(
        refused("more than double precision can compare: give X in another unit", X=HUGE),
        refused("beyond double precision: give y in another unit", y=HUGE[:, 0]),
        Shown(TUCKER + "test_shift_and_scale_of_coordinates"),
    ),
    KnowledgeTracer=refused("time is .* rescale it", time=[0, 1.7e308, -1.7e308, 1.0] * 2),
    DSLRegressor=(
        refused("column 'x0' is .* rescale it", X=HUGE),
        refused("column 'y' is .* rescale it", y=HUGE[:, 0]),
        Shown("tests/models/dsl/test_exact.py::test_scale_order_and_repeats"),
    ),
    DistributionTransformer=Absent("data far from the prior raise an alarm, see its tests"),
)

BIG = 2**60 + np.arange(NUM)
TABLE["whole numbers beyond 2^53"] = everywhere(
    None,
    **arrays(
        refused(
            f"X is {2**60} at row 0, column 0, and whole numbers beyond 2.53",
            X=np.stack([BIG, BIG], 1),
        ),
        refused(f"y is {2**60} at row 0, and whole", y=BIG),
    )
    | {
        "MarkovGPRegressor": (
            refused(f"X is {2**60} at row 0, and whole", X=BIG),
            refused(f"y is {-(2**60)} at row 0, and whole", y=-BIG),
        )
    },
    regression=refused(
        "column 'x0' holds a whole number beyond 2.53 at row 0", X=np.stack([BIG, BIG], 1)
    ),
    command_line=refused("column 'x1' holds a whole number beyond 2.53", x1=list(BIG)),
    KnowledgeTracer=refused("time must hold numbers .* beyond 2.53", time=2**60 + np.arange(8)),
    DistributionTransformer=refused("beyond 2.53", z=BIG),
    resampling=refused(
        "got dtype int32|floating-point", TypeError, log_weights=np.arange(3, dtype=np.int32)
    ),
)

TEXT = X.astype(str)
OBJECTS = TEXT.astype(object)
TABLE["text and objects"] = everywhere(
    None,
    **arrays(
        refused("X must hold real numbers, got dtype <U32: encode", X=TEXT),
        refused("X holds text, '.*' at row 0, column 0: convert", X=OBJECTS),
        refused("y must hold real numbers, got dtype <U32", y=Y.astype(str)),
        refused("y holds text, '.*' at row 0", y=Y.astype(str).astype(object)),
        refused("X holds objects that are no numbers", X=np.full((NUM, 2), {"a": 1})),
    )
    | {
        "MarkovGPRegressor": (
            refused("X must hold real numbers, got dtype <U32", X=TEXT[:, 0]),
            refused("X holds text, '.*' at row 0", X=OBJECTS[:, 0]),
            refused("y holds text, '.*' at row 0", y=Y.astype(str).astype(object)),
        )
    },
    regression=(
        refused("column 'x0' is not numeric", X=TEXT),
        refused("column 'x0' is not numeric", X=OBJECTS),
        refused("column 'y' is not numeric", y=CLASSES.astype(str)),
    ),
    command_line=refused("holds text at row 1, 'low'", x1=["1", "low"] + ["2"] * 10),
    KnowledgeTracer=(
        refused("time must hold numbers", time=[str(i) for i in range(8)]),
        refused("time must hold numbers", time=np.array([str(i) for i in range(8)], object)),
        refused("correct is '0' at row 0: it must be 0, 1", correct=["0", "1"] * 4),
        refused(
            "learner mixes text, such as 'a', with other labels, such as 1",
            learner=np.array(["a", 1] * 4, object),
        ),
        refused("kc mixes text, such as 'a', with other labels, such as 1", kc=["a", 1] * 4),
    ),
    DistributionTransformer=(
        refused("must hold real numbers", z=["a"]),
        refused("holds text, '1' at row 0", z=np.array(["1"], object)),
    ),
    resampling=refused(
        "log_weights must be an array of numbers", TypeError, log_weights=np.array(["a", "b"])
    ),
)

TABLE["bool"] = everywhere(
    Absent("a bool is the number 0 or 1"),
    **dict.fromkeys(
        ("NumPyro_model", "regression", "MarkovGPRegressor", "KnowledgeTracer"),
        Shown(ACCEPTED + "test_bools_are_numbers"),
    ),
    resampling=refused("Weights of 1 and 0 are", TypeError, log_weights=np.ones(3, bool)),
)

SPARSE = sparse.csr_matrix(X)
TABLE["complex and sparse"] = everywhere(
    None,
    **arrays(
        refused("Complex data not supported: X must hold real numbers", X=X + 0j),
        refused("Complex data not supported: y must hold real numbers", y=Y + 0j),
        refused(r"X is sparse: convert it with X.toarray\(\)", X=SPARSE),
        refused("y is sparse", y=sparse.csr_matrix(Y[:, None])),
    )
    | {
        "MarkovGPRegressor": (
            refused("Complex data not supported: X", X=X[:, 0] + 0j),
            refused("X is sparse", X=sparse.csr_matrix(X[:, :1])),
        )
    },
    regression=(
        refused("column 'x0' holds complex numbers", X=X + 0j),
        refused("column 'y' holds complex numbers", y=CLASSES + 0j),
        refused("the table is sparse", X=SPARSE),
        refused("column 'y' is sparse", y=sparse.csr_matrix(CLASSES[:, None])),
    ),
    command_line=refused("holds text at row 0, '1j'", x1=["1j"] * NUM),
    KnowledgeTracer=(
        refused("time must hold numbers .*Complex data", time=np.arange(8) + 0j),
        refused("correct is .* at row 0", correct=np.ones(8) + 0j),
    ),
    DistributionTransformer=refused("Complex data not supported", z=np.array([1j])),
    resampling=refused("got dtype complex64", TypeError, log_weights=np.ones(3, "c8")),
)

TABLE["times that repeat"] = everywhere(
    NO_TIMES,
    StateSpaceModel=(
        refused(
            "times repeat, first at rows 2 and 3, .* pass duplicates='keep'",
            times=put(TIMES, 3, 2.0),
        ),
        Shown(STATE_SPACE + "test_two_observations_of_one_instant_are_exact"),
        Shown(STATE_SPACE + "test_means_of_one_instant"),
    ),
    MarkovGPRegressor=Shown(GP + "test_repeats_are_one_row_with_less_noise"),
    FunctionalCP=Shown(
        "tests/models/functional_tucker/test_additive.py::"
        "test_equal_rows_are_one_row_of_the_sum_of_precisions"
    ),
    FunctionalTucker=Shown(TUCKER + "test_duplicates_count"),
    KnowledgeTracer=Shown(
        "tests/models/knowledge_tracing/test_ornstein_uhlenbeck.py::test_limits_of_the_gap"
    ),
)

TABLE["times out of order"] = everywhere(
    NO_TIMES,
    StateSpaceModel=refused("rows 0 and 1 are not in order: sort the rows", times=-TIMES),
    MarkovGPRegressor=Shown(GP + "test_order_of_rows_does_not_matter"),
    FunctionalCP=Shown(CP + "test_order_of_rows_kinds_of_numbers_and_copies"),
    FunctionalTucker=Shown(TUCKER + "test_order_of_rows"),
    KnowledgeTracer=(
        refused(
            "times decrease within a learner, first at row 1",
            settings={"strict": True},
            time=[3.0, 2.0, 1.0, 0.0] * 2,
        ),
        Shown(TRACER + "test_order_of_rows"),
    ),
)

TABLE["gaps of 0, 1e-12 and 1e12"] = everywhere(
    NO_TIMES,
    StateSpaceModel=Absent("the user's transition takes the gap"),
    MarkovGPRegressor=Shown(GP_EXACT + "test_extreme_gaps"),
    FunctionalCP=Shown(GP_EXACT + "test_extreme_gaps"),
    FunctionalTucker=Shown(GP_EXACT + "test_extreme_gaps"),
    KnowledgeTracer=Shown(
        "tests/models/knowledge_tracing/test_ornstein_uhlenbeck.py::test_limits_of_the_gap"
    ),
)

TABLE["labels that predict has not seen"] = everywhere(
    NO_IDS,
    FunctionalCP=Shown(TUCKER + "test_predictions_at_categories_that_the_fit_has_not_seen"),
    FunctionalTucker=Shown(TUCKER + "test_predictions_at_categories_that_the_fit_has_not_seen"),
    KnowledgeTracer=Shown(TRACER + "test_unknown_labels"),
    DSLRegressor=Shown(DSL + "test_categories_that_the_fit_has_not_seen"),
)

TABLE["category without observations"] = everywhere(
    NO_IDS,
    FunctionalCP=Shown(TUCKER + "test_predictions_at_categories_that_the_fit_has_not_seen"),
    FunctionalTucker=Shown(TUCKER + "test_predictions_at_categories_that_the_fit_has_not_seen"),
    KnowledgeTracer=Shown(
        "tests/models/knowledge_tracing/test_tables.py::test_a_node_without_rows_is_told_of"
    ),
    DSLRegressor=Shown(
        "tests/models/dsl/test_power.py::test_categories_without_rows_make_no_column"
    ),
)


def graph(*edges):
    import networkx as nx

    return {"settings": {"graph": nx.DiGraph(edges)}}


WEIGHTS = pd.DataFrame([[0.0, 2.0], [0.0, 0.0]], ["sum", "product"], ["sum", "product"])
TABLE["graphs"] = everywhere(
    Absent("takes no graph"),
    KnowledgeTracer=(
        refused("not acyclic: sum -> sum", **graph(("sum", "sum"), ("sum", "product"))),
        refused(
            "not acyclic: sum -> product -> sum",
            **graph(("sum", "product"), ("product", "sum")),
        ),
        refused("kc 'product' at row 2 is not known", **graph(("sum", "quotient"))),
        refused(
            r"in \[0, 1\], got 2 for the edge from 'sum' to 'product'",
            settings={"graph": WEIGHTS},
        ),
        refused("graph has 3 components, but the table", settings={"graph": np.zeros((3, 3))}),
        Shown(GRAPHS + "test_no_edges_are_independent_components"),
    ),
)

TABLE["sample weights"] = everywhere(
    Absent("has no sample_weight"),
    DSLRegressor=(
        refused("sample_prob must be above 0 .* row 0 has -1", sample_prob=-np.ones(NUM)),
        refused("sample_prob must be above 0 .* row 0 has 0", sample_prob=np.zeros(NUM)),
        refused("sample_prob is missing in 12 rows", sample_prob=np.full(NUM, NAN)),
        refused(r"one value a row, shape \(12,\), got shape \(3,\)", sample_prob=np.ones(3)),
    ),
    MarkovGPRegressor=(
        refused("noise_std must be at least 0, got -1 at row 0", noise_std=-np.ones(NUM)),
        refused(r"one for each of 12 rows, got shape \(3,\)", noise_std=np.ones(3)),
    ),
)

TABLE["weights of a resampler"] = everywhere(
    Absent("weights are the engine's own"),
    resampling=(
        refused(
            "log_weights contains nan", InvalidWeightsError, log_weights=np.full(4, NAN, "f4")
        ),
        refused(
            "all 4 values of log_weights are -inf",
            DegenerateWeightsError,
            log_weights=np.full(4, -INF, "f4"),
        ),
        refused("num must be in", ValueError, num=-1),
        refused("key must be a JAX key", TypeError, key=3),
        Shown(PROPERTIES + "test_weights_are_scaled_first"),
    ),
    blocks=Shown(
        "tests/inference/test_resampling.py::test_all_dead_particles_stay_without_a_nan"
    ),
    engines=Shown(ENGINES + "TestBadInput::test_zero_likelihood_everywhere"),
)

TABLE["improper prior"] = everywhere(
    Absent("its priors are proper"),
    NumPyro_model=Shown(BAYESIAN + "test_improper_prior_has_no_evidence"),
    Target=refused(
        "no sample_prior, so there is no prior to start from",
        ImproperPriorError,
        sample_prior=None,
    ),
    engines=Shown(ENGINES + "TestBadInput::test_no_prior_to_start_from"),
)

ONE_NUMBER = r"log_likelihood must return one number, shape \(\), got shape \(12,\)"
TABLE["log density of another shape or kind"] = everywhere(
    Absent("writes its own density"),
    NumPyro_model=refused("must be a NumPyro or Pyro model or a Target", TypeError, model=3),
    Target=(
        refused(ONE_NUMBER, TypeError, log_likelihood=lambda b, X, y: -((y - X @ b) ** 2)),
        refused(
            "log_prior must return one number, shape", TypeError, log_prior=lambda b: -(b**2)
        ),
        refused("got tuple", TypeError, log_likelihood=lambda b, X, y: (jnp.sum(b), 1.0)),
        refused("got NoneType", TypeError, log_likelihood=lambda b, X, y: None),
        refused(
            "got dtype int64: convert", TypeError, log_likelihood=lambda b, X, y: jnp.sum(b > 0)
        ),
        refused(
            "got dtype complex128: take the real part",
            TypeError,
            log_likelihood=lambda b, X, y: 1j * jnp.sum(b),
        ),
        refused(
            "jax.random, which does not know the keys",
            TypeError,
            sample_prior=lambda key: __import__("jax").random.normal(key, (2,)),
        ),
    ),
    StateSpaceModel=(
        refused(
            "observation must return a NumPyro distribution, got an array",
            TypeError,
            observation=lambda p, x, t: x,
        ),
        refused(
            r"state of shape \(\) and transition one of shape \(3,\)",
            ValueError,
            transition=lambda p, x, t, u: entries.dist.Normal(x + jnp.zeros(3), 1.0),
        ),
    ),
    blocks=refused(r"shape", (TypeError, ValueError), log_g0=lambda x: x),
    engines=Absent("the Target refuses, whatever the engine"),
)

TABLE["log density without a gradient"] = everywhere(
    Absent("writes its own density"),
    NumPyro_model=Absent("the engines say it, see there"),
    Target=Absent("the engines say it, see there"),
    StateSpaceModel=Absent("particle filters take no gradient"),
    blocks=Shown(
        BLOCKS
        + "test_gradient_kernel_without_a_gradient_is_refused_before_anything_is_compiled"
    ),
    engines=Shown("tests/inference/test_ensemble_hmc.py::TestBadInput::test_nan_gradient"),
)


def _numpy_model(X, y=None):
    b = entries.numpyro.sample("b", entries.dist.Normal(0.0, 1.0))
    entries.numpyro.sample("y", entries.dist.Normal(np.sin(np.asarray(b)), 1.0), obs=y)


TABLE["log density that cannot be traced"] = everywhere(
    Absent("writes its own density"),
    NumPyro_model=refused(
        r"the model _numpy_model cannot be compiled \(in .*table.py, line .*jax.numpy \(jnp\)",
        TypeError,
        model=_numpy_model,
    ),
    Target=(
        refused(
            r"log_likelihood cannot be compiled \(in .*table.py, line",
            TypeError,
            log_likelihood=lambda b, X, y: -np.sum(np.asarray(b)),
        ),
        refused(
            "jnp.where or jax.lax.cond in place of if",
            TypeError,
            log_likelihood=lambda b, X, y: 1.0 if b[0] > 0 else 0.0,
        ),
        refused(
            r"no float\(\) or int\(\)", TypeError, log_likelihood=lambda b, X, y: float(b[0])
        ),
    ),
    StateSpaceModel=refused(
        "transition cannot be compiled",
        TypeError,
        transition=lambda p, x, t, u: entries.dist.Normal(np.asarray(x), 1.0),
    ),
    DistributionTransformer=Shown(AMORTISED + "test_simulators"),
    engines=Absent("the Target refuses, whatever the engine"),
)

SEEDS = tuple(
    refused("random_state must be a whole number >= 0", ValueError, random_state=bad)
    for bad in (-1, 1.5, "a", True)
)
TABLE["random_state"] = everywhere(
    SEEDS,
    command_line=Absent("--seed is a number, which the parser reads"),
    KnowledgeTracer=tuple(
        refused("random_state must be", ValueError, settings=cell.arguments) for cell in SEEDS
    ),
    DistributionTransformer=refused(
        "random_state must be", ValueError, random_state=-1, max_steps=5
    ),
    resampling=Shown(SCHEME + "test_bad_input"),
    blocks=refused("seed must be in", ValueError, key=-1),
    engines=Absent("takes a key, not a random_state"),
)


def settings(entry_name=None, **wrong):
    """Return one refusal for each setting, whose message names it."""
    cells = []
    for name, values in wrong.items():
        for value in values:
            arguments = {name: value} if entry_name is None else {entry_name: {name: value}}
            cells.append(refused(name, (TypeError, ValueError), **arguments))
    return tuple(cells)


ENGINE_SETTINGS = {
    "SMC": {
        "ess": (1.5, "a"),
        "max_stages": (2.5, 0),
        "num_chains": (1.5,),
        "kernel": ("x",),
        "waste_free": ("yes",),
        "max_seconds": ("x", -1),
        "progress": ("x",),
    },
    "NUTS": {"num_warmup": (0, "x"), "target_acceptance": (1.0, "x"), "dense_metric": (2,)},
    "EnsembleHMC": {"jitter": (2.0, "x"), "trajectory": (-1.0, "x"), "integrator": ("x", 3)},
    "ParallelTempering": {"num_temperatures": (1, 2.5), "checkpoint_every": (-1, "x")},
    "ParticleFilter": {
        "num_paths": (-1,),
        "quantiles": (0.5, (2.0,), "x"),
        "ess_below": ("x", 2.0),
        "smoother": ("x",),
        "scheme": ("x",),
    },
    "PMMH": {"target_acceptance": ("x", 0.0), "paths": ("x",)},
    "ParticleGibbs": {"num_particles": (1, "x"), "ancestor": (2,)},
    "SMC2": {"num_moves": (0, True), "unbiased": ("x",)},
}
TABLE["settings"] = everywhere(
    None,
    NumPyro_model=settings(inference=("x", 3, entries.bk.SMC), precision=("half",)),
    Target=settings(inference=("x", 3, entries.bk.SMC), precision=("half",)),
    StateSpaceModel=settings(inference=("x", 3, entries.bk.SMC), precision=("half",)),
    regression=settings(family=("normal",), inference=("x",), precision=("half",)),
    command_line=Shown("tests/test_cli.py::TestBadInput::test_usage"),
    MarkovGPRegressor=settings(
        kernel=("x", 3),
        noise=(-1.0, "x", NAN),
        likelihood=("x",),
        mean=("x", NAN, [1.0, 2.0]),
        inference=("x", 3),
        method=("x",),
        num_starts=(0, 1.5),
        precision=("half",),
        progress=("x",),
    ),
    **{
        name: settings(
            **first,
            mean=("x", 3),
            kernel=("x", 3),
            transform=("x",),
            noise_std=(-1.0, NAN, "x"),
            likelihood=("x",),
            engine=("x", 3),
            max_iter=(0, 1.5, True),
            tol=(-1.0, "x"),
            num_starts=(0,),
            num_draws=(0,),
            num_particles=(1,),
            method=("x",),
        )
        for name, first in (
            ("FunctionalCP", {"rank": (-1, 1.5)}),
            ("FunctionalTucker", {"ranks": ((1,), (0, 1))}),
        )
    },
    KnowledgeTracer=settings(
        "settings",
        n_kc=(0, 1.5),
        num_steps=(-1, 1.5),
        batch_size=(0,),
        learning_rate=(-1.0, NAN, INF, "x"),
        edge_probability=(2.0, "x"),
        kc_scales=(0,),
        traits=("x", ["x"]),
        inference=("x", 3),
        precision=("half",),
        time_unit=("x", [1]),
        parameters=({"level": NAN}, {"gain": "x"}, {"unknown": 1.0}, 3),
        normalise=("x",),
        practice_gain=("x", [1]),
    ),
    DSLRegressor=settings(
        model=("x", 3),
        method=("x",),
        cv=(1, "x", 2.5),
        n_repeats=(0, 1.5),
        learner=("x", 3),
        normalize=("x",),
        power_tuning=("x", NAN),
        missing=("x",),
        strata=(np.zeros(3),),
    ),
    DistributionTransformer=Shown(AMORTISED + "test_settings"),
    blocks=(
        refused("unknown scheme", ValueError, scheme="sistematic"),
        refused("ess_below", ValueError, ess_below=2.0),
        refused("num_particles", ValueError, num_particles=2.5),
    ),
    engines=tuple(
        refused(setting, (TypeError, ValueError), name=name, **{setting: value})
        for name, wrong in ENGINE_SETTINGS.items()
        for setting, values in wrong.items()
        for value in values
    ),
)

TABLE["layouts of arrays"] = everywhere(
    Absent("arrays pass the door of the others"),
    NumPyro_model=Shown(ACCEPTED + "test_layouts_of_arrays"),
    Target=Shown(ACCEPTED + "test_layouts_of_arrays"),
    StateSpaceModel=Shown(ACCEPTED + "test_layouts_of_arrays"),
    regression=Shown(ACCEPTED + "test_layouts_of_arrays"),
    command_line=Absent("reads a file"),
    MarkovGPRegressor=Shown(ACCEPTED + "test_layouts_of_arrays"),
    FunctionalCP=Shown(CP + "test_order_of_rows_kinds_of_numbers_and_copies"),
    FunctionalTucker=Shown(TUCKER + "test_kinds_of_coordinates"),
    KnowledgeTracer=Shown(TRACER + "test_kinds_of_columns"),
    DSLRegressor=Shown(ACCEPTED + "test_layouts_of_arrays"),
)

TABLE["columns in another order at predict"] = everywhere(
    Absent("has no columns that predict takes by place"),
    NumPyro_model=Shown(ACCEPTED + "test_columns_in_another_order"),
    Target=Absent("a Target predicts nothing"),
    regression=Absent("Design.apply takes columns by name"),
    FunctionalCP=Shown(TUCKER + "test_kinds_of_coordinates"),
    FunctionalTucker=Shown(TUCKER + "test_kinds_of_coordinates"),
    DSLRegressor=Shown(ACCEPTED + "test_columns_in_another_order"),
)

MIXED_ZONES = [pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-02", tz="UTC")]
TABLE["dates with and without a zone"] = everywhere(
    NO_TIMES,
    StateSpaceModel=refused(
        "times holds objects that are no numbers|times must hold",
        times=np.array(MIXED_ZONES * 6, object),
    ),
    MarkovGPRegressor=(
        refused("a time zone and dates without one", X=np.array(MIXED_ZONES * 6, object)),
        Shown(GP + "test_times_with_and_without_a_zone"),
    ),
    **both_tensors(
        refused(
            "zone",
            X=pd.DataFrame({"t": pd.Series(MIXED_ZONES * 6, dtype=object), "x": X[:, 0]}),
        ),
        Shown(TUCKER + "test_dates_with_and_without_a_zone"),
    ),
    KnowledgeTracer=refused(
        "dates with a time zone and dates without one: give all in UTC", time=MIXED_ZONES * 4
    ),
)
