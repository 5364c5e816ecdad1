"""Print the bill of fidelity, or write it: see :mod:`tests.fidelity`."""

from __future__ import annotations

import argparse

from .bill import results, rst, write


def main() -> None:
    """Play all recordings, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.fidelity")
    parser.add_argument(
        "--write", action="store_true", help="keep them, and show them in the guide"
    )
    options = parser.parse_args()
    found = results()
    print(rst(found))
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
