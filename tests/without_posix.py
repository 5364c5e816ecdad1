"""Takes away on Linux what Windows lacks, and runs the tests that depend on it.

``python -m tests.without_posix`` runs :data:`FILES`, with its arguments as options of pytest.  As a
plugin (``pytest -p tests.without_posix``), this module takes away names of ``os``, ``signal`` and
``time``, and whole modules.  Files that are open cannot be renamed, replaced or removed, clocks go
in steps, and the commands that tests start write cp1252.  Tests marked ``posix`` are left out.

The processes that tests start keep what POSIX has, and sockets behave as usual.
``python -m tests.windows`` runs the tests with a Python for Windows.
"""

from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import pytest

#: Modules that Windows lacks.
MODULES: Final = ("fcntl", "grp", "pty", "pwd", "resource", "termios")
#: Names that Windows lacks, by their modules.  Some more are left, as pytest needs them on Linux.
NAMES: Final = {
    "os": {"fork", "getloadavg", "mkfifo", "openpty", "pread", "register_at_fork"},
    "signal": {"SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "pthread_kill", "setitimer"},
    "time": {"tzset"},
}
#: Seconds between two ticks of most clocks of Windows.
TICK: Final = 1 / 64
#: The tests that depend on any of it.
FILES: Final = tuple(
    f"tests/{folder}/test_{name}.py"
    for folder, names in (
        ("behaviour", "cli_files cli_stdout download_resume journal recording save_many"),
        ("behaviour", "shared_files uploads"),
        ("unit", "cli_following cli_mine deadline deafness definition_file delivery_thread"),
        ("unit", "file_names files health hosted_poller job outage parallel poller pool_changes"),
        ("unit", "queue_monitor runtime stop_signals tracker upload user_folder"),
    )
    for name in names.split()
)


def in_steps(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that only ticks as often as that of Windows."""
    return lambda: math.floor(clock() / TICK) * TICK


def refusing_open_files(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function on one or two paths that is an error if this process has one open.

    It refuses the client only: tests remove files that an embedded server may have open.
    """

    from tests.helpers.patches import denied  # late, as in take_away

    def refuse(*paths: Any, **options: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals["__name__"].partition(".")[0] == "pathlib":
            frame = frame.f_back
        caller = frame.f_globals["__name__"] if frame is not None else ""
        if caller.startswith("comfy_client.") and not caller.startswith("comfy_client.testing"):
            for path in paths:
                if _is_open(path, options.get("dir_fd")):
                    raise denied(*paths)
        function(*paths, **options)

    return refuse


def _is_open(path: Any, folder: int | None) -> bool:
    try:
        found = os.stat(path, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(found, os.fstat(int(number))):
                return True
        except OSError:  # closed meanwhile
            continue
    return False


def take_away(patch: pytest.MonkeyPatch) -> None:
    """Take away what Windows lacks from this process, and the code page of what it starts."""
    # As a plugin, this module is imported before pytest prepares to rewrite the package.
    from comfy_client import runtime
    from tests.helpers.standing_clock import CLOCKS

    for name in MODULES:
        patch.setitem(sys.modules, name, None)
    for module, names in NAMES.items():
        for name in names:
            patch.delattr(sys.modules[module], name, raising=False)
    for name in ("rename", "replace", "remove", "unlink"):
        patch.setattr(os, name, refusing_open_files(getattr(os, name)))
    others = ((time, "time"), (time, "thread_time"), (runtime, "wall_time"))
    for module, name in (*CLOCKS, *others, (runtime, "thread_time")):
        patch.setattr(module, name, in_steps(getattr(module, name)))
    patch.setenv("PYTHONIOENCODING", "cp1252")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take it away once everything is imported that runs the tests."""
    config.option.timeout_method = "thread"  # the other one needs SIGALRM
    take_away(pytest.MonkeyPatch())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what says that it needs POSIX."""
    out = [item for item in items if item.get_closest_marker("posix")]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def main(arguments: list[str]) -> int:
    """Run the tests, and return the status of pytest."""
    if sys.platform != "linux":
        print("this takes away on Linux what Windows lacks", file=sys.stderr)
        return 2
    # In a process of its own, which has imported nothing that pytest wants to rewrite.
    command = [sys.executable, "-m", "pytest", "-p", "tests.without_posix"]
    return subprocess.run([*command, *FILES, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
