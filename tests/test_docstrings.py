"""Every public name is on a page of the reference, and its docstring says what it must.

A docstring names each parameter, says what is returned and what is raised, and has an example,
which runs as a doctest. Objects that are handed to the user and never built need none.
"""

import ast
import functools
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
ROOMS = """
    bayeskit bayeskit.accel bayeskit.datasets bayeskit.errors bayeskit.inference
    bayeskit.inference.gp_kernels bayeskit.inference.random bayeskit.interop.arviz
    bayeskit.interop.blackjax bayeskit.interop.numpyro bayeskit.interop.numpyro_kernels
    bayeskit.interop.pyro bayeskit.interop.torch
    bayeskit.models bayeskit.models.distribution_transformer bayeskit.models.dsl bayeskit.plots
    bayeskit.validation""".split()

# Keywords that Python hands to __new__ and __init__ alike.
NOT_PARAMETERS = {"self", "args", "kwargs", "settings"}


@functools.cache
def public():
    """Return every public function and class by the first room that has it."""
    found, seen = {}, set()
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and id(thing) not in seen:
                seen.add(id(thing))
                found[f"{room.removeprefix('bayeskit').lstrip('.') or 'bayeskit'}.{name}"] = (
                    thing
                )
    return found


def is_error(thing):
    return inspect.isclass(thing) and issubclass(thing, Exception)


def has_section(thing, *names):
    heads = "|".join(names)
    return re.search(rf"^({heads})\n-+$", inspect.getdoc(thing) or "", re.MULTILINE)


def parameters_of(thing):
    names = inspect.signature(thing).parameters
    return [n for n in names if n not in NOT_PARAMETERS and not n.startswith("_")]


def is_named(parameter, text):
    """Whether a line of a section names the parameter, alone or beside others."""
    return re.search(rf"^\**([\w]+, \**)*{parameter}(, \**\w+)*(,| :.*)?$", text, re.MULTILINE)


def lacks_parameters(thing):
    doc = inspect.getdoc(thing) or ""
    names = parameters_of(thing)
    if names and not has_section(thing, "Parameters", "Attributes"):
        return names
    return [name for name in names if not is_named(name, doc)]


def lacks_returns(thing):
    if inspect.isclass(thing):
        return False
    nothing = inspect.signature(thing).return_annotation in (None, "None")
    return not nothing and not has_section(thing, "Returns", "Yields")


def raises_itself(function):
    """Whether a function, but none inside of it, has a raise statement."""

    def look(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Raise):
                return True
            inside = isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef)
            if not inside and look(child):
                return True
        return False

    return look(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0])


def lacks_raises(thing):
    if inspect.isclass(thing):
        functions = [vars(thing).get(n) for n in ("__init__", "__post_init__", "__new__")]
        written = list(map(inspect.unwrap, filter(inspect.isfunction, functions)))
        # What a dataclass or a named tuple generates has no source.
        written = [f for f in written if f.__code__.co_filename.endswith(".py")]
    else:
        written = [inspect.unwrap(thing)]
    return any(map(raises_itself, written)) and not has_section(thing, "Raises")


def lacks_example(thing):
    return ">>>" not in (inspect.getdoc(thing) or "")


def test_every_parameter_is_described():
    missing = {n: lacks_parameters(t) for n, t in public().items() if not is_error(t)}
    assert {name: gaps for name, gaps in missing.items() if gaps} == {}


def test_what_is_returned_is_said():
    assert [n for n, t in public().items() if not is_error(t) and lacks_returns(t)] == []


def test_what_is_raised_is_said():
    assert {n for n, t in public().items() if not is_error(t) and lacks_raises(t)} == set()


def test_every_name_has_an_example():
    assert [n for n, t in public().items() if not is_error(t) and lacks_example(t)] == []


def pages():
    """Return what the reference documents: whole rooms less what they leave out, and names."""
    rooms, names = {}, set()
    for page in REFERENCE.glob("*.md"):
        room = ""
        for line in page.read_text().splitlines():
            if found := re.match(r"\.\. currentmodule:: (\S+)", line):
                room = found[1]
            if found := re.match(r"\.\. automodule:: (\S+)", line):
                last = found[1]
                rooms[last] = set()
            if (found := re.match(r"\s+:exclude-members: (.*)", line)) and rooms:
                rooms[last] = set(re.split(r",\s*", found[1].strip()))
            if found := re.match(r"\.\. auto(?:class|function):: (\S+)", line):
                names.add(found[1] if "." in found[1] else f"{room}.{found[1]}")
    return rooms, names


def test_every_name_is_on_a_page_of_the_reference():
    rooms, names = pages()
    documented = {id(_thing(name)) for name in names}
    for room, left_out in rooms.items():
        module = importlib.import_module(room)
        documented |= {
            id(getattr(module, name)) for name in module.__all__ if name not in left_out
        }
    assert [name for name, thing in public().items() if id(thing) not in documented] == []


def _thing(path):
    room, _, name = path.rpartition(".")
    return getattr(importlib.import_module(room), name)


@pytest.mark.parametrize("section", ["Parameters", "Returns", "Raises", "Examples"])
def test_a_gap_is_found(section):
    def whole(number: int) -> int:
        """Return a number.

        Parameters
        ----------
        number : int

        Returns
        -------
        int

        Raises
        ------
        ValueError

        Examples
        --------
        >>> 1
        1
        """
        if number < 0:
            raise ValueError
        return number

    checks = {
        "Parameters": lacks_parameters,
        "Returns": lacks_returns,
        "Raises": lacks_raises,
        "Examples": lacks_example,
    }
    assert not any(check(whole) for check in checks.values())
    gap = rf"{section}\n *-+\n.*?(?=\n *\n|\n *$)"
    whole.__doc__ = re.sub(gap, "", whole.__doc__, flags=re.DOTALL)
    assert [name for name, check in checks.items() if check(whole)] == [section]
