"""Simulated learners that the tests of knowledge tracing share."""

import json

import pytest

import bayeskit as bk
from tests.models.knowledge_tracing.learners import PARAMETERS, SETTINGS, design


@pytest.fixture(scope="session")
def truth():
    """A tracer with known parameters, which simulates."""
    table = design(1).assign(correct=0.0)
    return bk.KnowledgeTracer(3, parameters=PARAMETERS, **SETTINGS).fit(table)


@pytest.fixture(scope="session")
def simulated(truth):
    """Answers of 400 learners, with the logits that they came from."""
    return truth.simulate(design(400), random_state=1, states=True)


@pytest.fixture(scope="session")
def fitted(simulated):
    """The tracer with true parameters and what it makes of those learners."""
    return bk.KnowledgeTracer(3, parameters=PARAMETERS, **SETTINGS).fit(simulated)


@pytest.fixture(scope="session")
def exact_cases(reference_data):
    return json.loads((reference_data / "psi-kt" / "exact_cases.json").read_text())
