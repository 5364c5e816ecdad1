"""What a mutant is: a defect put into the code by hand, which the tests must notice."""

from __future__ import annotations

from pathlib import Path

import attrs

import comfy_client

#: The checkout that these tests are in.
PROJECT = Path(__file__).parents[2]
#: The package that is tested, which may be installed elsewhere.
PACKAGE = Path(comfy_client.__file__).parent


def _split(names: str) -> tuple[str, ...]:
    return tuple(names.split())


@attrs.frozen
class Mutant:
    """One change to one file that the nearest tests must notice.

    Attributes:
        id: Its name in reports.
        file: The file that it changes, below ``comfy_client``.
        old: The text that it replaces, which occurs exactly once in the file.
        new: The text in its place.
        tests: The nearest tests, quick ones first: files or node ids below ``tests``.
        harm: What users would get.
        redundant: Why no test can notice it; empty: one must.
    """

    id: str
    file: str
    old: str = attrs.field(repr=False)
    new: str = attrs.field(repr=False)
    tests: tuple[str, ...] = attrs.field(converter=_split)
    harm: str
    redundant: str = ""

    def path(self, package: Path = PACKAGE) -> Path:
        """Return the path of the file in the package, or in a copy of it."""
        return package / self.file

    def apply(self, text: str) -> str:
        """Return the text of the file with the change.

        Raises:
            ValueError: The place is gone, or is no longer the only one of its kind.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.id}: its text occurs {count} times in {self.file}, not once")
        return text.replace(self.old, self.new)
