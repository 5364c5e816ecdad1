"""The report of ``api.doctor()``."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Literal, NamedTuple

import attrs

from ..errors import printable
from ..showing.cells import Shown
from ..to_dict import AsDict

CheckState = Literal["ok", "warning", "failed", "unknown"]


class CheckResult(NamedTuple):
    """The result of a check; see :class:`comfy_client.DoctorCheck`."""

    state: CheckState
    found: str
    advice: str = ""


ok: partial[CheckResult] = partial(CheckResult, "ok")
warning: partial[CheckResult] = partial(CheckResult, "warning")
failed: partial[CheckResult] = partial(CheckResult, "failed")
unknown: partial[CheckResult] = partial(CheckResult, "unknown")


@attrs.frozen
class DoctorCheck(AsDict):
    """A single check of :meth:`ComfyApi.doctor`, with its result.

    All texts are one line each, and without secrets.

    Attributes:
        name: The name of the check, such as ``port`` or ``tls``.
        state: ``ok``, ``warning`` (it works, but see the advice), ``failed``, or ``unknown`` (this
            could not be determined).
        found: What the check found.
        advice: What to do about it; empty: nothing.
        because: The name of the check that has to work before this one, which was skipped; empty:
            no other check prevented this one.
        seconds: How many seconds the check took.
    """

    name: str
    state: CheckState
    found: str
    advice: str = ""
    because: str = ""
    seconds: float = attrs.field(default=0.0, eq=False)


@attrs.frozen(repr=False)
class DoctorReport(Shown, AsDict):
    """The report of :meth:`ComfyApi.doctor`: print it, iterate over it, or use ``report["tls"]``.

    A report without failed checks is true.  Its text is safe for a bug report: it contains no
    credentials, no user name, no path of the server's address and nothing of a workflow.

    Attributes:
        checks: The checks, in the order in which they were made.
        host: The scheme, name and port of the server; a path is hidden.
        started: When the first check began, in UTC.
        seconds: How many seconds all checks took.
        versions: The versions of this library, Python, the platform and dependencies, by name.
    """

    _in_dict = ("ok",)

    checks: tuple[DoctorCheck, ...]
    host: str
    started: datetime
    seconds: float
    versions: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return all(check.state != "failed" for check in self.checks)

    def __bool__(self) -> bool:
        """Return :attr:`ok`."""
        return self.ok

    def __iter__(self) -> Iterator[DoctorCheck]:
        """Iterate over the checks in the order in which they were made."""
        return iter(self.checks)

    def __getitem__(self, name: str) -> DoctorCheck:
        """Return a check by its name; raise ``KeyError`` if there is none."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it

    def _html(self) -> str:
        from ..showing.tables import Table

        moods = {"ok": "good", "warning": "doubtful", "failed": "bad"}
        rows: list[tuple[str, str, str]] = []
        for one in self.checks:
            rows.append(("skipped" if one.because else one.state, one.name, one.found))
            rows += [("", "", f"-> {one.advice}")] if one.advice else []
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        head = f"{self.host}, {self.started:%Y-%m-%d %H:%M:%S} UTC, {self.seconds:.1f} s"
        return Table(("state", "check", "found"), rows, moods, [head], [versions]).html()

    def __str__(self) -> str:
        counted = Counter(check.state for check in self.checks if not check.because)
        skipped = sum(1 for check in self.checks if check.because)
        warnings = counted["warning"]
        head = (
            f"{counted['failed']} failed, {warnings} warning{'' if warnings == 1 else 's'}, "
            f"{counted['ok']} ok"
            + (f", {counted['unknown']} unknown" if counted["unknown"] else "")
            + (f", {skipped} skipped" if skipped else "")
        )
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [
            f"comfy_client doctor: {head}",
            f"{self.host}, {self.started:%Y-%m-%d %H:%M:%S} UTC, {self.seconds:.1f} s",
            *_hanging("", versions),
            "",
        ]
        for check in self.checks:
            if not check.because:
                label = check.state.upper() if check.state == "failed" else check.state
                lines += _hanging(f"{label:<8} {check.name:<12} ", check.found)
                if check.advice:
                    lines += _hanging(" " * 20 + "-> ", check.advice)
        for cause in dict.fromkeys(check.because for check in self.checks if check.because):
            names = [check.name for check in self.checks if check.because == cause]
            what = f"because {cause!r} has to work first: {', '.join(names)}"
            lines += _hanging(f"{'-':<8} {'skipped':<12} ", what)
        return printable("\n".join(lines))


def _hanging(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        98,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_on_hyphens=False,
        break_long_words=False,
    )
