"""Fixtures for the tests of those who write kernels and blocks.

Installed with the package, so that any test may ask for them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["check_law"]


@pytest.fixture
def check_law() -> Callable:
    """Validate a block and fail the test unless it passes.

    The fixture is a function with the arguments of :func:`bayeskit.validate`; it returns the
    report. A verdict of ``"inconclusive"`` fails the test too.

    Examples
    --------
    A test file of a user::

        def test_my_kernel(check_law):
            check_law(MyKernel())
    """

    def check(block: Any, target: Any = None, **options: Any) -> Any:
        # Deferred: every run of pytest loads this file, few need JAX.
        from bayeskit.validation import validate

        report = validate(block, target, **options)
        report.raise_if_failed()
        return report

    return check
