"""The command: what to measure, where the rows go, and what makes it fail."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayeskit.errors import BayeskitError

__all__ = ["main", "run"]

Row = dict[str, Any]

_DESCRIPTION = (
    "Measure the particle kernels here: nanoseconds a particle, the ratio to a copy of as many "
    "numbers and to the best other package, and the error of the answer. Packages that are not "
    "installed are left out."
)
_EPILOG = (
    "On a CPU times are processor seconds of one thread. error is the largest "
    "|offspring - N W| of a resampling scheme; for others the largest error, relative for "
    "weights and as a Kolmogorov-Smirnov statistic for normals. dead counts offspring of "
    "particles of weight zero. Ends with 0; 1 if an answer of ours is wrong, or if with "
    "--check a ratio is worse than the stored one by 25 %; 2 for wrong usage; 130 if "
    "interrupted."
)
_SIZES = (10**3, 10**4, 10**5, 10**6)
_QUICK_SIZES = (10**4, 10**5)
_QUICK_REGIMES = ("sd 1", "half dead")
_QUICK_KERNELS = (
    "normalize",
    "systematic",
    "gather",
    "prefix sum",
    "normals",
    "bootstrap step",
)
_LARGEST_SIZE = 10**8
# A ratio that has grown is measured again before it counts: other work on the machine may
# have made it.
_SECOND_LOOKS = 2


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit code."""
    from bayeskit.accel.bench.cases import KERNELS

    parser = argparse.ArgumentParser(
        prog=prog or "python -m bayeskit.accel.bench", description=_DESCRIPTION, epilog=_EPILOG
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick",
        action="store_true",
        help="a part of it all, within a minute of processor time",
    )
    extent.add_argument("--full", action="store_true", help="ten million particles, too")
    parser.add_argument(
        "--sizes", type=_sizes, metavar="N,N,...", help="numbers of particles, such as 1e4,1e6"
    )
    kernels = (*KERNELS, "programs")
    parser.add_argument(
        "--kernels",
        type=functools.partial(_names, known=kernels),
        metavar="A,B,...",
        help=f"some of: {', '.join(KERNELS)}, and programs, for how long they take to build",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument(
        "--repeats", type=_count, default=10, metavar="K", help="timings of each; default: 10"
    )
    parser.add_argument(
        "--loop",
        action="store_true",
        help="time many calls inside one program, as in a filter; default on a GPU",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write rows as lines of JSON")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with stored rows")
    parser.add_argument(
        "--json", action="store_true", help="print rows as lines of JSON in place of a table"
    )
    return run(parser.parse_args(arguments))


def _sizes(text: str) -> tuple[int, ...]:
    sizes = []
    for part in text.split(","):
        try:
            size = float(part)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is no number") from None
        if size != round(size) or not 1 <= size <= _LARGEST_SIZE:
            raise argparse.ArgumentTypeError(
                f"sizes are whole numbers from 1 to {_LARGEST_SIZE:.0e}, got {part}"
            )
        sizes.append(int(size))
    return tuple(sizes)


def _names(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {count}")
    return count


def run(options: argparse.Namespace) -> int:
    """Measure what the options ask for and return the exit code."""
    from bayeskit.accel.bench import stored
    from bayeskit.accel.dispatch import wanted_backend

    try:
        wanted_backend()
        if options.check and not options.check.exists():
            raise ValueError(f"{options.check} does not exist: name a file that --out wrote")
        before = stored.read(options.check) if options.check else None
        if options.out and (options.out.is_dir() or not options.out.parent.is_dir()):
            raise ValueError(f"{options.out} cannot be written: name a file in a folder")
    except (OSError, ValueError, BayeskitError) as error:
        _say(str(error))
        return 2
    session = _Session(options)
    out = options.out
    try:
        session.measure_all()
        code = session.judge(before)
    except KeyboardInterrupt:
        # What is stored stays.
        out = out.with_name(f"{out.name}.interrupted") if out and session.rows else None
        _say(f"interrupted after {len(session.rows)} rows" + (f", see {out}" if out else ""))
        code = 130
    session.show()
    if out:
        stored.write(session.rows, out)
    return code


class _Session:
    """All rows of one call of the command, and how to measure each again."""

    def __init__(self, options: argparse.Namespace):
        from bayeskit.accel.bench.machine import use_one_thread
        from bayeskit.accel.bench.measure import Bench
        from bayeskit.accel.bench.peers import PACKAGES, is_installed

        use_one_thread()
        self.options = options
        self.rows: list[Row] = []
        self._reasons: list[str] = []
        self._tasks_of: dict[tuple, Any] = {}
        self._bench = Bench(
            dtype=options.dtype, repeats=options.repeats, in_loop=options.loop or None
        )
        missing = [package for package in PACKAGES if not is_installed(package)]
        if missing:
            _say(f"left out, not installed or not for this device: {', '.join(missing)}")

    def _tasks(self):
        """Yield functions that each measure the rows of one case."""
        from bayeskit.accel.bench.cases import KERNELS, REGIMES, cases
        from bayeskit.accel.bench.programs import measure_programs, programs

        options = self.options
        kernels = options.kernels or (
            _QUICK_KERNELS if options.quick else (*KERNELS, "programs")
        )
        sizes = options.sizes or (_QUICK_SIZES if options.quick else _SIZES)
        if options.full and not options.sizes:
            sizes = (*sizes, 10**7)
        batches = () if options.quick or options.sizes else ((100, 10_000), (10_000, 100))
        for case in cases(
            sizes,
            _QUICK_REGIMES if options.quick else REGIMES,
            options.dtype,
            [name for name in kernels if name != "programs"],
            batches,
        ):
            yield lambda case=case: self._bench.measure(case)
        if "programs" in kernels:
            facts = self._bench.facts
            for group in programs(options.dtype):
                yield lambda group=group: measure_programs(group, facts)

    def measure_all(self) -> None:
        """Measure every case."""
        from bayeskit.accel.bench.stored import case_of
        from bayeskit.accel.bench.table import shape_of

        for number, task in enumerate(self._tasks(), start=1):
            rows = task()
            self._tasks_of[case_of(rows[0])] = task
            self.rows += rows
            if sys.stderr.isatty():
                print(f"\r\033[K{number}: {shape_of(rows[0])}", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)

    def judge(self, before: list[Row] | None) -> int:
        """Return 1 if an answer of ours is wrong or a ratio has grown."""
        from bayeskit.accel.bench.stored import compare, title

        wrong = [r for r in self.rows if r["package"] == "bayeskit" and r.get("wrong")]
        for row in wrong:
            self._fail(f"wrong: {title(row)}: error {row['error']}")
        if before is None:
            return 1 if wrong else 0
        found = compare(self.rows, before)
        for note in found.notes:
            _say(f"note: {note}")
        if not found.num_compared:
            self._fail(f"{self.options.check} has no row of what was measured")
            return 2
        slower = self._slower_in_every_look(found.slower, before)
        for grown in slower:
            self._fail(f"slower: {grown}")
        _say(
            f"{found.num_compared} ratios compared with {self.options.check}, "
            f"{len(slower)} worse by more than 25 %"
        )
        return 1 if wrong or slower else 0

    def _slower_in_every_look(self, slower: list, before: list[Row]) -> list:
        from bayeskit.accel.bench.stored import case_of, compare

        for _ in range(_SECOND_LOOKS):
            again: list[Row] = []
            for case in dict.fromkeys(case_of(grown.row) for grown in slower):
                again += self._tasks_of[case]()
            still = {grown.identity for grown in compare(again, before).slower}
            slower = [grown for grown in slower if grown.identity in still]
        return slower

    def _fail(self, reason: str) -> None:
        """Say why the command ends with an error, at once and beside the table."""
        _say(reason)
        self._reasons.append(reason)

    def show(self) -> None:
        """Print the rows, and below a table what is wrong with them."""
        from bayeskit.accel.bench.stored import to_line
        from bayeskit.accel.bench.table import render

        if self.options.json:
            for row in self.rows:
                print(to_line(row))
            return
        if self.rows:
            print(render(self.rows))
        for reason in self._reasons:
            print(reason)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)
