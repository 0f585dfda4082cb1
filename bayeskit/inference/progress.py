"""One live line of what matters while an engine runs."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["ProgressLine"]


class ProgressLine:
    """A line that is rewritten in place on a terminal or in a notebook.

    Parameters
    ----------
    title : str
    enabled : "auto" or bool
        ``"auto"`` shows it where a person can see it: on a terminal or in a notebook.
    """

    def __init__(self, title: str, enabled: str | bool = "auto"):
        if enabled not in ("auto", True, False):
            raise ValueError(f"progress must be 'auto', True or False, got {enabled!r}")
        self._title = title
        self._enabled = _is_watched() if enabled == "auto" else enabled
        self._start = self._last = time.monotonic()
        self._width = 0
        if self._enabled:
            self.show("compiling", force=True)

    def show(self, text: str, *, force: bool = False) -> None:
        """Replace the line, at most ten times a second unless forced."""
        now = time.monotonic()
        if not self._enabled or (not force and now - self._last < 0.1):
            return
        self._last = now
        line = f"{self._title}: {text} [{now - self._start:.1f} s]"
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def close(self, text: str) -> None:
        """Show a last text and end the line."""
        if self._enabled:
            self.show(text, force=True)
            self._write("\n")

    def _write(self, text: str) -> None:
        # A bar must never be the reason that a fit fails.
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            self._enabled = False


def _is_watched() -> bool:
    kernel: Any = sys.modules.get("ipykernel")
    return kernel is not None or bool(getattr(sys.stderr, "isatty", lambda: False)())
