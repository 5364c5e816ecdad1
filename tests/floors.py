"""The oldest releases that ``setup.cfg`` allows, and what does not work with older ones.

A floor is what the code calls, so that the library can be installed beside others.  Each was
tried: ``.ci/run`` runs many tests with exactly these releases, and the others with the newest.
The oldest numpy has no wheel for the Python 3.12 of that lane: unit tests run with it on 3.11.
Releases without known flaws are advised by the doctor, and in ``security.rst``.

    python -m tests.floors      prints them, and those of the tests' tools, as constraints for pip
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Final, NamedTuple


class Floor(NamedTuple):
    """The oldest release of a package, and the reason why it is none before."""

    release: str
    reason: str
    #: The first with a wheel for Python 3.12, where that one has none.
    on_3_12: str = ""


#: Of all packages that users install, by the names in ``setup.cfg``.
FLOORS: Final = {
    "requests": Floor("2.32.2", "HTTPAdapter.get_connection_with_tls_context"),
    "urllib3": Floor("2.2", "HTTPResponse.read1"),
    "websocket-client": Floor("1.7", "the oldest that was tried"),
    "attrs": Floor("23.2", "a cached_property in a class with slots"),
    "blinker": Floor("1.8", "blinker.default_namespace"),
    "click": Floor("8.1", "8.0 completes no files after a comma"),
    "tqdm": Floor("4.64", "4.62 ends the line of a bar that shares the terminal with others"),
    "Pillow": Floor("10.4", "10.3 stores equal pictures of a batch as one"),
    "numpy": Floor("1.23.2", "the first for Python 3.11", "1.26.0"),
    "ipython": Floor("8.18", "the oldest that was tried"),
    "aiohttp": Floor("3.12.15", "3.11 leaves a deleted prompt pending (test_cancel.py)"),
    "comfyui-frontend-package": Floor("1.32.9", "the page of the oldest version that is played"),
    "distributed": Floor("2025.1.0", "2024.8.0 has no dask.tokenize"),
    "blake3": Floor("0.4.1", "the oldest that was tried"),
    "mcp": Floor("2.2", "the oldest that was tried"),
}


def constraints() -> list[str]:
    """Constraints for pip: of each package that ``setup.cfg`` names, exactly the oldest release."""
    metadata = configparser.ConfigParser()
    metadata.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
    needs = [metadata["options"]["install_requires"], *metadata["options.extras_require"].values()]
    found = []
    for line in sorted({line for text in needs for line in text.split("\n")}):
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+) >= ([\d.]+)(?:, < \d+)?", line)
            assert match, f"no oldest release: {line}"
            name, release = match.groups()
            floor = FLOORS.get(name)
            if floor and floor.on_3_12:
                found.append(f"{name}=={release}; python_version < '3.12'")
                found.append(f"{name}=={floor.on_3_12}; python_version >= '3.12'")
            else:
                found.append(f"{name}=={release}")
    return found


if __name__ == "__main__":
    print("\n".join(constraints()))
