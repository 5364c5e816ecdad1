"""Set the version and date the changes: ``python -m tests.release VERSION``, for ``.ci/release``.

The first time, ``SOURCE_URL`` and ``SITE_URL`` are needed, which become the links of the package.

It needs nothing but Python, and changes nothing if something is not ready for a release.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
VERSION_FILE: Final = "comfy_client/_version.py"
CHANGES: Final = "comfy_client/guide/changes.rst"
SETTINGS: Final = "setup.cfg"
_METADATA: Final = (
    "# No project_urls: .ci/release adds them, once there are a repository and a site.\n"
)
_URLS: Final = """project_urls =
    Documentation = {site}
    Changes = {site}/en/stable/changes.html
    Source = {source}
    Issues = {source}/issues
"""
#: Pages that say so as long as there is no release.
UNRELEASED: Final = re.compile(r"Nothing\s+has\s+been\s+released|once\s+it\s+is\s+released")
PAGES: Final = ("README.rst", "comfy_client/guide/start.rst", CHANGES)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
_HEADING: Final = re.compile(r"^Unreleased\n-+\n+(?=\S)", re.MULTILINE)
_CURRENT: Final = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def order(version: str) -> tuple[int | str, ...]:
    """Return what versions are sorted by; raise ValueError if this is none of ours."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"{version!r} is no version such as 1.2.3 or 1.2.3rc1")
    major, minor, patch, stage, number = match.groups()
    return int(major), int(minor), int(patch), stage or "z", int(number or 0)


def problems(texts: dict[str, str], version: str, given: Mapping[str, str]) -> list[str]:
    """Return what keeps these texts of files, by their paths, from being released."""
    try:
        current = _CURRENT.findall(texts[VERSION_FILE])[0]
        found = [] if order(version) >= order(current) else [f"{version} is older than {current}"]
    except ValueError as exc:
        return [str(exc)]
    found += [
        f"{page} says that nothing has been released: change that"
        for page in PAGES
        if UNRELEASED.search(texts[page])
    ]
    has_links = re.search(r"^project_urls", texts[SETTINGS], re.MULTILINE)
    for name in () if has_links else ("SOURCE_URL", "SITE_URL"):
        if not re.fullmatch(r"https://\S+[^\s/]", given.get(name, "")):
            found.append(f"{SETTINGS} has no links: set {name}=https://... to one that exists")
    if not _HEADING.search(texts[CHANGES]):
        found.append(f"{CHANGES} has no part 'Unreleased' with changes")
    if re.search(rf"^{re.escape(version)}\b", texts[CHANGES], re.MULTILINE):
        found.append(f"{CHANGES} has {version} already")
    return found


def released(
    texts: dict[str, str], version: str, day: date, given: Mapping[str, str]
) -> dict[str, str]:
    """Return the files that a release changes, with their new texts."""
    title = f"{version} ({day.isoformat()})"
    heading = f"{title}\n{'-' * len(title)}\n\n"
    urls = _URLS.format(source=given.get("SOURCE_URL"), site=given.get("SITE_URL"))
    return {
        VERSION_FILE: _CURRENT.sub(f'__version__ = "{version}"', texts[VERSION_FILE]),
        SETTINGS: texts[SETTINGS].replace(_METADATA, urls),
        CHANGES: _HEADING.sub(heading, texts[CHANGES], count=1),
    }


def main(root: Path, version: str, day: date, given: Mapping[str, str]) -> int:
    """Change the files below a folder; return an exit status."""
    names = dict.fromkeys([VERSION_FILE, SETTINGS, *PAGES])
    texts = {name: root.joinpath(name).read_text(encoding="utf-8") for name in names}
    found = problems(texts, version, given)
    for problem in found:
        print(problem, file=sys.stderr)
    for name, text in {} if found else released(texts, version, day, given).items():
        root.joinpath(name).write_text(text, encoding="utf-8")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(ROOT, sys.argv[1], datetime.now(UTC).date(), os.environ))
