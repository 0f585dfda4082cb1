"""Given graphs, graphs that are learned, and graphs that are refused."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import bayeskit as bk
from bayeskit.errors import InvalidDataError
from bayeskit.models.knowledge_tracing.edges import edge_posterior, sampled_edges
from bayeskit.models.knowledge_tracing.graphs import cycles_of, scaled_graph
from tests.models.knowledge_tracing.learners import design

K = 4
EDGES = [(0, 1), (1, 2), (0, 3)]
A = np.zeros((K, K))
A[tuple(np.transpose(EDGES))] = 1.0
SMALL = {"kc_scales": 1, "traits": "static", "random_state": 0, "time_unit": "minute"}
PARAMETERS = {
    "level": 0.0,
    "time_scale": 3.0,
    "sd": 1.2,
    "gain": [[0.3, 0.5, 0.3]],
    "saturation": 0.05,
    "spacing": 0.0,
    "jump_sd": 0.1,
    "ability_sd": 0.5,
}
TWO = {"learner": [0] * 3, "kc": [0, 1, 0], "time": [0.0, 1.0, 2.0], "correct": [1, 0, 1]}


def rows(num_learners, seed):
    rng = np.random.default_rng(seed)
    gap = rng.exponential(0.3, (num_learners, 64))
    return pd.DataFrame(
        {
            "learner": np.repeat(np.arange(num_learners), 64),
            "kc": rng.integers(K, size=num_learners * 64),
            "time": np.cumsum(gap, axis=1).ravel(),
        }
    )


def tracer(graph, n_kc=K, **settings):
    parameters = {**PARAMETERS, **settings.pop("parameters", {})}
    return bk.KnowledgeTracer(
        n_kc, graph=graph, parameters=parameters, num_steps=0, **{**SMALL, **settings}
    )


@pytest.fixture(scope="module")
def table():
    truth = tracer(A, parameters={"transfer": 0.8}).fit(rows(1, 0).assign(correct=1.0))
    return truth.simulate(rows(150, 1), random_state=2)


@pytest.mark.parametrize("graph", [np.zeros((K, K)), nx.empty_graph(K, nx.DiGraph)])
def test_no_edges_are_independent_components(table, graph):
    """Without an ability both filters are exact in the same sense, and agree to rounding."""
    few, settings = table[table["learner"] < 8], {"traits": "none", "rate_change": False}
    change = {"parameters": {}, **settings}
    found = tracer(graph, **change)
    found.parameters = {k: v for k, v in PARAMETERS.items() if k != "ability_sd"}
    alone = tracer(None, **change)
    alone.parameters = found.parameters
    new = few.assign(learner=few["learner"] + 100)
    np.testing.assert_allclose(
        found.fit(few).predict_next(new), alone.fit(few).predict_next(new), atol=1e-12
    )


def test_a_graph_spreads_what_is_learned(table):
    """What is seen of a prerequisite moves what follows it, later, and not the reverse."""
    base = {"traits": "none"}
    parameters = {k: v for k, v in PARAMETERS.items() if k != "ability_sd"}
    found = tracer(A, **base, parameters={"transfer": 0.8})
    found.parameters = {**parameters, "transfer": 0.8}
    one = {"learner": ["a"] * 4, "kc": [0] * 4, "time": [0, 1, 2, 3], "correct": [1] * 4}
    found.fit({**one, "kc": [0] * 4})
    query = {"learner": ["a"] * K, "kc": list(range(K)), "time": [3.3] * K}
    mean = found.forecast(query)["mean"]
    assert mean[0] > mean[1] > mean[2] > 0.01 and mean[3] == pytest.approx(mean[1])
    found.fit({**one, "kc": [2] * 4})
    back = found.forecast(query)["mean"]
    # Upwards only what the answers tell of the past goes through.
    assert abs(back[0]) < back[2] / 5


def test_looking_changes_nothing_along_a_graph(table):
    few = table.groupby("learner").head(58).query("learner < 4")
    found = tracer(A).fit(few)
    states = found.smooth(1)
    times = states.index.get_level_values("time")
    looks = np.linspace(times[0], times[-1], 7)[1:-1]
    more = found.smooth(1, looks)
    more = more[more.index.get_level_values("time").isin(times)]
    pd.testing.assert_frame_equal(more, states, atol=1e-9)
    # Planted bug: with parents that are held still it does change something.
    frozen = tracer(A, transition="frozen_parent").fit(few)
    more = frozen.smooth(1, looks)
    more = more[more.index.get_level_values("time").isin(times)]
    assert np.abs(more["mean"] - frozen.smooth(1)["mean"]).max() > 1e-5


def test_partial_fit_along_a_graph(table):
    few = table[table["learner"] < 3]
    whole, parts = tracer(A).fit(few), tracer(A)
    by_time = few.sort_values("time", kind="stable")
    for piece in np.array_split(np.arange(len(by_time)), 9):
        parts.partial_fit(by_time.iloc[piece])
    query = {"learner": [0, 1, 2], "kc": [0, 1, 3], "time": [1e3] * 3}
    np.testing.assert_allclose(
        parts.predict_proba(query), whole.predict_proba(query), atol=1e-8
    )
    assert parts.log_evidence_ == pytest.approx(whole.log_evidence_, abs=1e-8)


def test_edges_are_found(table, tmp_path):
    found = bk.KnowledgeTracer(K, graph="learn", num_steps=60, **SMALL).fit(table)
    off = ~np.eye(K, dtype=bool)
    p = found.graph_.to_numpy()
    assert roc_auc_score(A[off], p[off]) > 0.9
    assert not np.diag(p).any()
    # In the right direction.
    assert all(p[i, k] > p[k, i] for i, k in EDGES)
    without = bk.KnowledgeTracer(K, num_steps=60, **SMALL, rate_change=False).fit(table)
    assert found.log_evidence_ > without.log_evidence_ + 20
    assert list(found.graph_.index) == found.kcs_
    # A file has the posterior, too, and arrays of graphs.
    found.save(tmp_path / "tracer.bkit")
    loaded = bk.load(tmp_path / "tracer.bkit")
    pd.testing.assert_frame_equal(loaded.graph_, found.graph_)
    np.testing.assert_array_equal(loaded.edges_.weight, found.edges_.weight)
    query = {"learner": [0, 1], "kc": [0, 3], "time": [1e3, 1e3]}
    np.testing.assert_array_equal(loaded.predict_proba(query), found.predict_proba(query))


def test_sampled_edges_against_enumeration():
    """Three components, a quadratic evidence: probabilities by summing over all DAGs."""
    from scipy import stats

    rng = np.random.default_rng(0)
    root = rng.normal(size=(9, 9)) * 3.0
    information, b = root @ root.T + np.eye(9), 12.0 * rng.normal(size=9)
    p, sd = 0.3, 0.3
    off = [j for j in range(9) if j % 4]
    total, share = 0.0, np.zeros(9)
    for mask in range(2**6):
        chosen = [off[n] for n in range(6) if mask >> n & 1]
        graph = nx.DiGraph([divmod(j, 3) for j in chosen])
        if not nx.is_directed_acyclic_graph(graph):
            continue
        weight = (p / (1 - p)) ** len(chosen)
        if chosen:
            precision = information[np.ix_(chosen, chosen)] + np.eye(len(chosen)) / sd**2
            covariance = np.linalg.inv(precision)
            mean = covariance @ b[chosen]
            inside = stats.multivariate_normal.cdf(
                mean, cov=covariance, abseps=1e-7, releps=1e-7, maxpts=10**6
            )
            log = 0.5 * mean @ precision @ mean - 0.5 * np.linalg.slogdet(precision)[1]
            weight *= np.exp(log - len(chosen) * np.log(sd / 2)) * inside
        total += weight
        share[chosen] += weight
    draws = sampled_edges(
        b,
        information,
        probability=p,
        slab_sd=sd,
        acyclic=True,
        num_sweeps=2000,
        generator=np.random.default_rng(1),
    )
    found = edge_posterior(draws).probability.ravel()
    # Batches of 50 sweeps give the Monte-Carlo error; 5 of it, for 6 edges.
    batches = (draws > 0).reshape(40, 50, 9).mean(axis=1)
    error = batches.std(axis=0) / np.sqrt(40)
    assert (np.abs(found - share / total) < 5 * error + 2e-3).all()
    assert share.max() / total > 0.2
    # Planted bug: a prior that is forgotten.
    wrong = sampled_edges(
        b,
        information,
        probability=0.5,
        slab_sd=sd,
        acyclic=True,
        num_sweeps=1000,
        generator=np.random.default_rng(1),
    )
    gap = edge_posterior(wrong).probability.ravel() - share / total
    assert (np.abs(gap) > 5 * error + 2e-3).any()


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (np.eye(2), r"not acyclic: 0 -> 0; 1 -> 1"),
        (np.array([[0, 1], [1, 0]]), r"not acyclic: (0 -> 1 -> 0|1 -> 0 -> 1)"),
        (np.zeros((3, 3)), "graph has 3 components, but the table and n_kc have 2"),
        (np.zeros((2, 3)), "must be a square matrix"),
        (np.array([[0, 2], [0, 0]]), r"weights of the graph must lie in \[0, 1\]"),
        (nx.Graph([(0, 1)]), "graph is undirected"),
        (nx.DiGraph([(0, "x")]), "is not known"),
    ],
)
def test_bad_graphs(graph, words):
    with pytest.raises(InvalidDataError, match=words):
        tracer(graph, None).fit(TWO)


def test_graphs_with_cycles():
    cycle, both = np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones((2, 2))
    found = tracer(cycle, None, allow_cycles=True, parameters={"transfer": 0.9}).fit(TWO)
    assert np.isfinite(found.log_evidence_)
    # A transfer that is learned stays below 1, where a cycle of gain 1 is stable.
    free = {k: v for k, v in PARAMETERS.items() if k != "transfer"}
    found = bk.KnowledgeTracer(
        graph=cycle, allow_cycles=True, num_steps=0, parameters=free, **SMALL
    ).fit(TWO)
    assert np.isfinite(found.log_evidence_) and found.parameters_["transfer"] < 1
    # Either way of scaling keeps the gain at 1 or below; more would be refused.
    for normalise in ("in_degree", "num_kc"):
        settings = {"normalise": normalise, "allow_cycles": True}
        assert scaled_graph(both, [0, 1], max_transfer=0.999, **settings).sum() == 2.0
        with pytest.raises(InvalidDataError, match="would grow without bound"):
            scaled_graph(both, [0, 1], max_transfer=1.0, **settings)
    with pytest.raises(ValueError, match="edge_probability"):
        bk.KnowledgeTracer(edge_probability=0.0).fit(TWO)
    with pytest.raises(InvalidDataError, match="no component"):
        tracer(nx.DiGraph([(0, 1), (1, "x")]), 2).fit(TWO)


@pytest.mark.reference
def test_the_junyi_map(reference_data):
    """The map is no DAG, and the refusal names what is wrong."""
    folder = reference_data / "psi-kt"
    nodes = pd.read_csv(folder / "junyi_map_nodes.csv")["node"]
    edges = pd.read_csv(folder / "junyi_map_edges.csv")
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes.tolist())
    graph.add_edges_from(edges.to_numpy().tolist())
    found = cycles_of(nx.to_numpy_array(graph), list(graph))
    loops = [c for c in found if len(c) == 1]
    assert sorted(c[0] for c in loops) == sorted(n for n, _ in nx.selfloop_edges(graph))
    plain = graph.copy()
    plain.remove_edges_from(list(nx.selfloop_edges(graph)))
    longer = [c for c in found if len(c) > 1]
    assert bool(longer) != nx.is_directed_acyclic_graph(plain)
    assert found, "this part of the map has a cycle"
    table = {"learner": [0], "kc": [0], "time": [0.0], "correct": [1]}
    first = " -> ".join(map(str, [*found[0], found[0][0]]))
    with pytest.raises(InvalidDataError, match=f"graph is not acyclic: {first}"):
        bk.KnowledgeTracer(graph=graph, num_steps=0).fit(table)
    # Allowed, its gain is at most 1: stable for every transfer below 1.
    weights, labels = nx.to_numpy_array(graph), list(graph)
    settings = {"normalise": "in_degree", "allow_cycles": True, "max_transfer": 0.999}
    scaled = scaled_graph(weights, labels, **settings)
    assert scaled.sum(axis=0).max() <= 1.0 + 1e-12


def test_reference_design_is_shared():
    """The rows of the other tests have components that this graph lacks."""
    with pytest.raises(InvalidDataError, match="kc 2 at row"):
        tracer(np.zeros((2, 2)), 2).fit(design(2).assign(correct=0.0))
