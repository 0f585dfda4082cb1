"""How Sphinx builds the documentation."""

import hashlib
import os
import sys
from pathlib import Path

# The package beside this folder, for the executed pages as well, and extensions of Sphinx.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions")]
os.environ["PYTHONPATH"] = str(ROOT)

import bayeskit  # noqa: E402

project = "bayeskit"
author = "The bayeskit developers"
copyright = f"2026, {author}"
version = release = bayeskit.__version__

extensions = [
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Pages are MyST Markdown; those with code cells are executed, and an error fails the build.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
# Progress lines and announcements of other packages. What a page has to say about a warning,
# it prints.
nb_output_stderr = "remove"
# Results are kept as long as neither the page nor the package changes, nor what is stored.
_STORED = sorted((ROOT / "benchmarks" / "results").glob("*.json*"))
_HELPERS = sorted((ROOT / "docs" / "algorithms").glob("*.py"))
_SOURCES = [*sorted((ROOT / "bayeskit").rglob("*.py")), *_HELPERS, *_STORED]
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
nb_execution_cache_path = str(ROOT / "docs" / "_build" / f".jupyter_cache-{_DIGEST[:12]}")
copybutton_exclude = ".linenos, .gp, .go"

# Reference: a page a room, with everything in its `__all__`.
autosummary_generate = False
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    # Made by scikit-learn for its metadata routing, whose pages are not here.
    "exclude-members": ", ".join(
        f"set_{method}_request"
        for method in ("fit", "partial_fit", "predict", "predict_proba", "score")
    ),
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
# Types are prose here, such as shapes: no links are looked for in them. Attributes are listed
# as parameters are; as objects of their own they would describe properties twice.
napoleon_use_param = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False

# Links into other packages' documentation need the network: they are made on request.
if os.environ.get("BAYESKIT_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "jax": ("https://docs.jax.dev/en/latest", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "numpyro": ("https://num.pyro.ai/en/stable", None),
        "python": ("https://docs.python.org/3", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
    }

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "bayeskit"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
