"""Formulas as MathML, which browsers draw themselves: pages need no script and no network."""

from html import escape

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError


def mathml(latex, display):
    """Return the MathML element of a formula, with its source for those who hear the page."""
    try:
        # An underscore in \text needs no backslash here, and would keep it.
        element = convert(latex.strip().replace(r"\_", "_"), display=display)
    except Exception as error:
        raise ExtensionError(f"the formula {latex!r} has no MathML: {error}") from error
    if "\\" in element:
        raise ExtensionError(f"a command in the formula {latex!r} is not known: {element}")
    head, body = element.split(">", 1)
    return f'{head} alttext="{escape(latex.strip())}">{body}'


def visit_inline(translator, node):
    """Write a formula in a line of text."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise SkipNode


def visit_block(translator, node):
    """Write a formula that stands apart."""
    if node["number"]:
        raise ExtensionError(f"equation numbers are not written: {node.astext()!r}")
    translator.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>\n')
    raise SkipNode


def setup(app):
    """Register the renderer `mathml`, for `html_math_renderer`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
