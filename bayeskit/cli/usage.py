"""What was asked cannot be done: the command line says why and exits with 2."""

__all__ = ["UsageError"]


class UsageError(Exception):
    """A command that cannot be carried out as it was given."""
