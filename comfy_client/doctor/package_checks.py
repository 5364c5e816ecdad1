"""Check of the installed packages: which ones are older than is advised, and why.

``setup.cfg`` allows every release that has what the client calls, so that it can be installed
beside others.  Releases with known flaws are for the doctor to name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from .context import CheckContext
from .network_checks import version_of
from .report import CheckResult, ok, warning


class Advised(NamedTuple):
    """A package, the oldest release without known flaws, and what older ones do."""

    package: str
    release: str
    flaw: str


#: Older releases work, too, but have known flaws that a hostile server or client may use.
ADVISED: Final = (
    Advised("urllib3", "2.8", "unpacks or drains more of an answer than is asked for"),
    Advised("requests", "2.33", "has known flaws with .netrc and certificates"),
    Advised("Pillow", "13.0", "has known flaws in decoding pictures of strangers"),
    Advised("aiohttp", "3.14.4", "has known flaws in reading requests (the embedded server)"),
)


def numbers(release: str) -> tuple[int, ...]:
    """Return the numbers at the start of a release, by which releases are compared."""
    start = re.match(r"\d+(\.\d+)*", release)
    return tuple(map(int, start[0].split("."))) if start else ()


def check_packages(_: CheckContext) -> CheckResult:
    """Check which installed packages have known flaws."""
    return judged({one.package: version_of(one.package) for one in ADVISED})


def judged(releases: Mapping[str, str]) -> CheckResult:
    """Return the result for releases by package; those without a number are not installed."""
    installed = {name: release for name, release in releases.items() if numbers(release)}
    old = [
        one
        for one in ADVISED
        if one.package in installed and numbers(installed[one.package]) < numbers(one.release)
    ]
    text = ", ".join(f"{name} {release}" for name, release in installed.items())
    if not old:
        return ok(text)
    flaws = "; ".join(f"{one.package} before {one.release} {one.flaw}" for one in old)
    wanted = " ".join(f'"{one.package}>={one.release}"' for one in old)
    return warning(f"{text}: {flaws}", f"if nothing else needs the old ones: pip install {wanted}")
