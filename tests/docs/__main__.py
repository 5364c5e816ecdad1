"""Build the site, and check its links: ``python -m tests.docs [--external] [FOLDER]``.

Every warning of Sphinx is an error, and so is a dead link or a page that no link leads to.
``--external`` asks every other site that a page links to, instead of writing HTML.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import main as sphinx

from tests.docs import conf
from tests.docs.links import mistakes
from tests.docs.pages import write


def build(target: Path, builder: str) -> int:
    """Write the pages to a temporary folder, and have Sphinx read them."""
    with tempfile.TemporaryDirectory() as source:
        write(Path(source))
        settings = str(Path(conf.__file__).parent)
        options = ["-c", settings, "-W", "--keep-going", "-q", "-j", "auto", "-b", builder]
        return sphinx([*options, source, str(target)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/docs"))
    parser.add_argument("--external", action="store_true", help="ask the sites that pages link to")
    options = parser.parse_args()
    if options.external:
        return build(options.folder / "external", "linkcheck")
    status = build(options.folder, "html")
    if status:
        return status
    found = mistakes(options.folder)
    print(*found, options.folder / "index.html", sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
