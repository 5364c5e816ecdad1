"""Mutants: defects in guards, bounds and races, put into a copy of the code one at a time.

``python -m tests.mutants`` shows which of them the nearest tests notice.
"""

from __future__ import annotations

from .hosted import HOSTED
from .hosted_jobs import HOSTED_JOBS
from .jobs import JOBS
from .mutant import Mutant
from .others import OTHERS
from .pools import POOLS
from .server import SERVER
from .transport import TRANSPORT

#: By room.
ROOMS: dict[str, tuple[Mutant, ...]] = {
    "jobs": JOBS,
    "transport": TRANSPORT,
    "pools": POOLS,
    "others": OTHERS,
    "server": SERVER,
    "hosted": HOSTED,
    "hosted_jobs": HOSTED_JOBS,
}
MUTANTS: tuple[Mutant, ...] = tuple(mutant for room in ROOMS.values() for mutant in room)
