"""Put each mutant into a copy of the project, run the nearest tests, and print who survives.

    python -m tests.mutants                      # all of them, in half an hour
    python -m tests.mutants --room jobs --jobs 2
    python -m tests.mutants --only J05 N20 --timeout 600
    python -m tests.mutants --list

The exit status is 0 if each mutant is killed but those that are named redundant.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final

import attrs

from . import MUTANTS, ROOMS
from .mutant import PROJECT, Mutant

KILLED: Final = "killed"
SURVIVED: Final = "survived"
UNDECIDED: Final = "undecided"

#: What pytest prints of the test that failed.
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) tests/(.+?)(?: - (.*))?$", re.MULTILINE)
_NOT_COPIED: Final = shutil.ignore_patterns(
    ".git", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "build"
)
#: What pytest exits with if there is no such test, or no such option.
_MISUSED: Final = (3, 4, 5)


@attrs.frozen
class Verdict:
    """What became of a mutant.

    Attributes:
        mutant: Which one.
        outcome: ``killed``, ``survived``, or ``undecided``: no test failed, and time ran out.
        by: The test that failed.
        seconds: How long its tests took.
    """

    mutant: Mutant
    outcome: str
    by: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether it is as the list says."""
        return (self.outcome == KILLED) is not bool(self.mutant.redundant)

    def __str__(self) -> str:
        what = "redundant" if self.outcome == SURVIVED and self.is_right else self.outcome
        return f"{self.mutant.id:4} {what:9} {self.seconds:5.1f} s  {self.by or self.mutant.harm}"


class Copy:
    """A copy of the project, which has one mutant at a time."""

    #: Times of changed files: Python takes two of one time and size for the same.
    _stamps = count(int(time.time()))

    def __init__(self, folder: Path) -> None:
        self._project = folder / "project"
        shutil.copytree(PROJECT, self._project, ignore=_NOT_COPIED)
        self._env = {
            **os.environ,
            "PYTHONPATH": str(self._project),
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        }
        imported = self._run(["-c", "import comfy_client; print(comfy_client.__file__)"], 60)
        if Path(imported.stdout.strip()).parent != self._project / "comfy_client":
            raise SystemExit(f"the copy is not what is imported: {imported.stdout}")

    def test(self, tests: Sequence[str], seconds: float, *options: str) -> tuple[int | None, str]:
        """Run some tests; exit status (``None``: time ran out) and output of pytest."""
        command = ["-m", "pytest", "-x", "-q", "--long", "--timeout=60", "-p", "no:cacheprovider"]
        command += options
        try:
            done = self._run([*command, *(f"tests/{one}" for one in tests)], seconds)
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stdout

    def _run(self, arguments: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        with (
            tempfile.TemporaryFile("w+", errors="replace") as output,
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self._project,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                process.wait(seconds)
            finally:
                with contextlib.suppress(ProcessLookupError):  # what tests have started, too
                    os.killpg(process.pid, signal.SIGKILL)
            output.seek(0)
            return subprocess.CompletedProcess(arguments, process.returncode, output.read())

    def judge(self, mutant: Mutant, seconds: float) -> Verdict:
        """Run the nearest tests of a mutant."""
        path, began = mutant.path(self._project / "comfy_client"), time.monotonic()
        text = path.read_text(encoding="utf-8")
        self._write(path, mutant.apply(text))
        try:
            status, output = self.test(mutant.tests, seconds, "-n", "0")
        finally:
            self._write(path, text)
        if status in _MISUSED:
            raise SystemExit(f"{mutant.id}: its tests cannot be run:\n{output}")
        outcome = {0: SURVIVED, None: UNDECIDED}.get(status, KILLED)
        return Verdict(mutant, outcome, _killer(output, status), time.monotonic() - began)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        stamp = next(self._stamps)
        os.utime(path, (stamp, stamp))


def _killer(output: str, status: int | None) -> str:
    found = _FAILED.search(output)
    if found is None:
        return "" if not status else f"pytest ended with {status}"
    return f"{found[1]}{' (its time ran out)' if 'Timeout' in (found[2] or '') else ''}"


def judge_all(mutants: Sequence[Mutant], jobs: int, seconds: float) -> Iterator[Verdict]:
    """Judge mutants, several at a time, each process in a copy of its own.

    Raises:
        SystemExit: A test fails without any of them.
    """
    with contextlib.ExitStack() as folders:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for _ in range(jobs):
            folder = folders.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            copies.put(Copy(Path(folder)))
        base = copies.get()
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        status, output = base.test(tests, 3600, "-n", str(2 * jobs))
        if status != 0:
            raise SystemExit(f"the tests fail without any mutant:\n{output}")
        copies.put(base)

        def judge(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                return copy.judge(mutant, seconds)
            finally:
                copies.put(copy)

        pool = folders.enter_context(ThreadPoolExecutor(jobs))
        folders.callback(pool.shutdown, cancel_futures=True)
        yield from pool.map(judge, mutants)


def sum_up(verdicts: Sequence[Verdict]) -> None:
    """Print the rate of each room, and what is not as the list says."""
    print()
    for room, mutants in {**ROOMS, "all": MUTANTS}.items():
        counts = Counter(
            one.outcome for one in verdicts if one.mutant in mutants and not one.mutant.redundant
        )
        if total := counts.total():
            print(f"{room:10} {counts[KILLED]} of {total} killed, {counts[KILLED] / total:.1%}")
    for one in verdicts:
        if one.outcome != KILLED and one.is_right:
            print(f"redundant: {one.mutant.id}, since {one.mutant.redundant}")
    for one in verdicts:
        if not one.is_right:
            what = "named redundant, but killed" if one.mutant.redundant else one.outcome
            print(f"{what}: {one.mutant.id} in {one.mutant.file}: {one.mutant.harm}")


def _chosen(arguments: argparse.Namespace) -> tuple[Mutant, ...]:
    mutants = ROOMS[arguments.room] if arguments.room else MUTANTS
    if not arguments.only:
        return mutants
    unknown = set(arguments.only) - {mutant.id for mutant in mutants}
    if unknown:
        raise SystemExit(f"no such mutants: {', '.join(sorted(unknown))}")
    return tuple(mutant for mutant in mutants if mutant.id in arguments.only)


def main() -> int:
    """Do what the command line says; return the exit status."""
    words, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=words,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="ID", help="these mutants")
    parser.add_argument("--room", choices=ROOMS, help="the mutants of one room")
    parser.add_argument("--list", action="store_true", help="print them, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time")
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="for the tests of a mutant"
    )
    arguments = parser.parse_args()
    mutants = _chosen(arguments)
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.id:4} {mutant.file}: {mutant.harm}")
        return 0
    verdicts = []
    for verdict in judge_all(mutants, arguments.jobs, arguments.timeout):
        print(verdict, flush=True)
        verdicts.append(verdict)
    sum_up(verdicts)
    return 0 if all(verdict.is_right for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
