"""A folder of results that is complete or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from bayeskit.cli.usage import UsageError

__all__ = ["OWNED_FILES", "OutputFolder"]

OWNED_FILES = (
    "posterior.bkit",
    "posterior.nc",
    "summary.csv",
    "forest.png",
    "smc_history.png",
    "trace_rank.png",
    "report.html",
)


class OutputFolder:
    """Context in which files are written beside a folder that takes them over at the end.

    If the folder exists, only the files named in ``OWNED_FILES`` are replaced, and those of
    an earlier run that this one does not write are removed. After an error nothing is left.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    staging : Path
        Where to write, inside the context.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._target = Path(os.path.realpath(path))

    def check(self) -> None:
        """Refuse a place where no folder can be.

        Raises
        ------
        UsageError
        """
        for place in (self._target, *self._target.parents):
            if place.is_dir():
                break
            if place.exists():
                raise UsageError(f"--out {self.path}: {place} is a file, not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(f"--out {self.path}: {place} cannot be written to")
        for name in OWNED_FILES:
            if (self._target / name).is_dir():
                raise UsageError(f"--out {self.path}: {name} in it is a folder; move it away")

    def __enter__(self) -> OutputFolder:
        self.check()
        parent = self._target.parent
        self._made = []
        for place in (parent, *parent.parents):
            if place.is_dir():
                break
            self._made.append(place)
        parent.mkdir(parents=True, exist_ok=True)
        self.staging = Path(tempfile.mkdtemp(dir=parent, prefix=f".{self._target.name}-"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        published = False
        try:
            if kind is None:
                self._publish()
                published = True
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
            if not published:
                self._remove_made()

    def _publish(self) -> None:
        if not self._target.exists():
            # Made for its owner only by mkdtemp; results get what any new folder gets.
            mask = os.umask(0)
            os.umask(mask)
            self.staging.chmod(0o777 & ~mask)
            self.staging.rename(self._target)
            return
        written = {path.name for path in self.staging.iterdir()}
        for name in OWNED_FILES:
            if name in written:
                os.replace(self.staging / name, self._target / name)
            else:
                (self._target / name).unlink(missing_ok=True)

    def _remove_made(self) -> None:
        for place in self._made:
            try:
                place.rmdir()
            except OSError:
                return
