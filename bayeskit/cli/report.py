"""One self-contained HTML page: text, tables and pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Page", "versions"]

_STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6675; --line: #dfe4ea; --tint: #f5f7f9;
  --mark: #1f5f8b; --warn: #8a4b00; --warn-tint: #fff5e5; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: #fff;
  color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p { margin: .3rem 0 1rem; color: var(--soft); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .6rem;
  margin: 1.5rem 0; }
dl div { background: var(--tint); border-radius: .5rem; padding: .6rem .8rem; }
dl div:first-child { background: var(--mark); color: #fff; }
dt { font-size: .78rem; opacity: .85; } dd { margin: 0; font-size: 1.15rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.warning { background: var(--warn-tint); color: var(--warn); padding: .6rem .8rem;
  border-radius: .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { color: var(--soft); font-weight: 600; }
@media (max-width: 40rem) { th:first-child { position: static; } }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; color: var(--soft); }
pre { background: var(--tint); padding: .8rem; border-radius: .5rem; font-size: .8rem;
  line-height: 1.45; overflow-x: auto; }
"""


class Page:
    """A page that is put together part by part; all text is escaped.

    Parameters
    ----------
    title, subtitle : str
    """

    def __init__(self, title: str, subtitle: str):
        self._title = html.escape(title)
        self._parts = [f"<h1>{self._title}</h1>", f"<p>{html.escape(subtitle)}</p>"]

    def headline(self, numbers: Mapping[str, str]) -> None:
        """Show the numbers that matter most, by name."""
        cells = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in numbers.items()
        )
        self._parts.append(f"<dl>{cells}</dl>")

    def warning(self, text: str) -> None:
        """Show a reason for doubt."""
        self._parts.append(f'<p class="warning" role="alert">{html.escape(text)}</p>')

    def section(self, title: str, text: str) -> None:
        """Begin a section."""
        self._parts += [f"<h2>{html.escape(title)}</h2>", f"<p>{html.escape(text)}</p>"]

    def table(self, frame: Any) -> None:
        """Show a table of numbers; it scrolls sideways where the screen is narrow."""
        head = "".join(f'<th scope="col">{html.escape(str(c))}</th>' for c in frame.columns)
        rows = []
        for label, values in zip(frame.index, frame.to_numpy(), strict=True):
            cells = "".join(f"<td>{_number(v)}</td>" for v in values)
            rows.append(f'<tr><th scope="row">{html.escape(str(label))}</th>{cells}</tr>')
        self._parts.append(
            '<div class="wide" tabindex="0"><table><thead><tr><th></th>'
            f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )

    def picture(self, path: Path, caption: str) -> None:
        """Put a PNG into the page itself."""
        data = base64.b64encode(path.read_bytes()).decode()
        caption = html.escape(caption)
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def text(self, text: str) -> None:
        """Show text as it is, in a fixed width."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def write(self, path: Path) -> None:
        """Write the page."""
        body = "\n".join(self._parts)
        path.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{self._title}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n{body}\n</body></html>\n",
            encoding="utf-8",
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"


def versions() -> dict[str, str]:
    """Return the versions that a number depends on."""
    names = ("bayeskit", "jax", "numpyro", "numpy", "scipy", "arviz", "scikit-learn")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    found["python"] = platform.python_version()
    found["platform"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return found
