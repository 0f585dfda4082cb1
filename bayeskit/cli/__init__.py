"""The command line: ``bayeskit info``, ``bayeskit fit`` and ``bayeskit demo``."""

from bayeskit.cli.command_line import main

__all__ = ["main"]
