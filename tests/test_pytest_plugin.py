"""The fixture that the package gives to its users' tests."""

import numpy as np
import pytest

from bayeskit.errors import ValidationFailed
from bayeskit.inference import random
from bayeskit.validation import Atoms

RING = Atoms(np.arange(3), np.ones(3))


def turn(key, state):
    return (state + random.categorical(key, np.zeros(2))) % 3


def test_check_law_returns_the_report_of_a_right_step(check_law):
    assert check_law(turn, start=RING).verdict == "pass"


def test_check_law_raises_for_a_wrong_step(check_law):
    with pytest.raises(ValidationFailed, match=r"the mass of the state 0 from 0\.5 to 0\.375"):
        check_law(turn, start=RING._replace(mass=np.array([2.0, 1.0, 1.0])))


def test_the_fixture_is_installed_with_the_package():
    from importlib.metadata import entry_points

    names = {point.value for point in entry_points(group="pytest11")}
    assert "bayeskit.pytest_plugin" in names
