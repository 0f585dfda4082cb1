"""Every Python block of the README runs as it stands, one after the other."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def python_blocks():
    """The blocks, each below as many empty lines as put it at its own line number."""
    text = README.read_text("utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, block.start(1)) + block.group(1)


def test_python_blocks_run_in_order(capsys):
    namespace = {"__name__": "readme"}
    for block in python_blocks():
        exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out
    assert re.search(r"log evidence -\d+\.\d{3} ± 0\.\d{3}", printed)
    assert re.search(r"^PASS  HMC\b", printed, re.MULTILINE)
    assert "L2 properly weighted for γ[T]" in printed


def test_first_screen_shows_what_it_promises():
    first_screen = README.read_text("utf-8").partition("\n## ")[0]
    assert "make demo" in first_screen
    assert "make test" in first_screen
    assert first_screen.count("```python") == 1


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)", README.read_text("utf-8"))
    assert links
    missing = [link for link in links if not (README.parent / link).is_file()]
    assert not missing
