"""The snippets of the documentation that need torch, as they stand on the page."""

import linecache
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("pyro", reason="Pyro is not installed")

import jax
import jax.numpy as jnp

import bayeskit as bk
from bayeskit.interop.pyro import is_pyro_model

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "from_other_packages.md"


def blocks(section, kind):
    """Return the code of a section: ``{code-cell}`` that runs, or ``python`` that is shown."""
    text = PAGE.read_text("utf-8").split(f"\n## {section}\n")[1].partition("\n## ")[0]
    found = re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in found if not block.startswith(":tags:")]


def run(code, namespace, name):
    """Run code that inspect can read, as in a notebook."""
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    exec(compile(code, name, "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def numpyro_page():
    (code,) = blocks("From NumPyro", "{code-cell}")
    return run(code, {"__name__": "page"}, "<numpyro>")


def pyro_page(numpyro_page, change=lambda code: code):
    (code,) = blocks("From Pyro", "python")
    given = {"__name__": "page", **{n: numpyro_page[n] for n in ("bk", "X", "y")}}
    return run(change(code), given, "<pyro>")


def means_and_sds(page):
    return page["est"].summary()[["mean", "sd"]].to_numpy()


def test_pyro_model_has_the_numbers_of_the_numpyro_model(numpyro_page):
    """From the same start and the same key: equal but for rounding."""
    page = pyro_page(numpyro_page)
    assert is_pyro_model(page["line"]) and not is_pyro_model(numpyro_page["line"])
    expected = means_and_sds(numpyro_page)
    np.testing.assert_allclose(means_and_sds(page), expected, rtol=1e-5)
    assert page["est"].log_evidence_ == pytest.approx(
        numpyro_page["est"].log_evidence_, abs=1e-5
    )
    # A slip in one prior would be seen.
    other = pyro_page(
        numpyro_page, lambda code: code.replace("HalfNormal(1.0)", "HalfNormal(0.9)")
    )
    assert np.abs(means_and_sds(other) / expected - 1).max() > 1e-4


def test_log_density_and_simulator():
    (code,) = blocks("From a log density or a simulator in torch", "python")
    page = run(code, {"__name__": "page", "bk": bk}, "<torch>")
    x = jnp.array([1.0, -2.0])
    value, gradient = jax.jit(jax.value_and_grad(page["target"].log_density))(x)
    assert float(value) == pytest.approx(-2.5)
    np.testing.assert_allclose(gradient, -x)
    keys = jax.random.split(jax.random.key(0), 400)
    draw = jax.jit(jax.vmap(lambda key: page["simulate"](key, jnp.array([5.0]))))
    draws = np.asarray(draw(keys))
    np.testing.assert_array_equal(draws, draw(keys))
    # Six standard errors: 2e-9 by chance.
    assert draws.shape == (400, 3) and abs(draws.mean() - 5.0) < 6 / np.sqrt(1200)
    assert len(np.unique(draws)) == draws.size
