"""Each algorithm is defined by a few lines of blocks, and each explains its law."""

import ast
import importlib
import inspect
import io
import textwrap
import tokenize

import pytest

from bayeskit import inference as bi

MOST = 12
BLANK = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def num_lines(source):
    """The lines of the body of a function, without its docstring and comments."""
    source = textwrap.dedent(source)
    function = ast.parse(source).body[0]
    body = function.body[1:] if ast.get_docstring(function) else function.body
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in BLANK and token.start[0] >= body[0].lineno:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines)


def algorithms():
    """The public functions of the folder; models are what algorithms run on."""
    folder = importlib.import_module("bayeskit.inference.algorithms")
    for name in folder.__all__:
        function = getattr(folder, name)
        if inspect.isfunction(function) and not name.endswith("_model"):
            yield function


def test_what_is_counted():
    counted = '''
    def f(x):
        """Not this.

        Nor this.
        """
        # Nor a comment.
        y = (
            x + 1
        )

        return y  # But this line.
    '''
    assert num_lines(counted) == 4
    names = {function.__name__ for function in algorithms()}
    assert {"particle_filter", "smc2", "controlled_filter", "unbiased_mcmc", "sqmc"} <= names
    assert len(names) > 30


@pytest.mark.parametrize("function", list(algorithms()), ids=lambda f: f.__name__)
def test_definitions_are_short(function):
    found = num_lines(inspect.getsource(function))
    assert found <= MOST, f"{function.__name__} takes {found} lines: move helpers out of it"


def test_the_room_holds_them_all():
    assert all(hasattr(bi, function.__name__) for function in algorithms())
