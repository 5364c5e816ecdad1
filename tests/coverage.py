"""How much of the package the tests run, branch by branch: ``python -m tests.coverage``.

It reports what ``coverage run -m pytest`` has measured, and fails below ``fail_under`` of
``setup.cfg``.  It also fails far above, until that is raised: what is gained stays.
"""

from __future__ import annotations

import sys
from typing import Final

from coverage import Coverage
from coverage.exceptions import CoverageException

#: Per cent of lines and branches: races decide which of some branches run.
MARGIN: Final = 1.0


def verdict(total: float, floor: float) -> str | None:
    """Return what is wrong with a total, if anything."""
    if total < floor:
        return f"{total:.2f} % is below {floor:.2f} %, the fail_under of setup.cfg: add tests"
    if total > floor + MARGIN:
        return f"{total:.2f} % is far above {floor:.2f} %: raise fail_under in setup.cfg"
    return None


def main() -> str | None:
    """Report, and return what is wrong."""
    measured = Coverage()
    measured.combine()
    measured.save()
    total = measured.report()
    return verdict(total, float(str(measured.get_option("report:fail_under"))))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CoverageException as exc:
        sys.exit(f"{exc}: coverage run -m pytest")
