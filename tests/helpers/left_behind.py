"""State of the process and of the main thread that outlives whoever has set it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

#: Signals for which tests or commands set handlers.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # not all on Windows
]
#: Environment variables that pytest sets for each phase of a test, and Dask for its processes.
_CHANGES = (
    *("PYTEST_CURRENT_TEST", "PYTHONHASHSEED", "__DASK_PARENT_PID"),
    *("MALLOC_TRIM_THRESHOLD_", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)


def state_of_process() -> dict[str, Any]:
    """Return what is set now, by what it is called."""
    logger = logging.getLogger("comfy_client")
    # In each phase of a test, pytest adds its own to a logger that does not propagate.
    handlers = [one for one in logger.handlers if not type(one).__module__.startswith("_pytest.")]
    return {
        **{one.name: signal.getsignal(one) for one in SIGNALS},
        "profile function": sys.getprofile(),
        **{f"${name}": value for name, value in os.environ.items() if name not in _CHANGES},
        "working directory": os.getcwd(),
        "switch interval": sys.getswitchinterval(),
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "timeout of sockets": socket.getdefaulttimeout(),
        "logging": (
            logger.level,
            handlers,
            logger.disabled,
            logging.root.manager.disable,
        ),
        **_of_client(sys.modules),
    }


def changes_since(before: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not as it was, once errors that nobody holds are gone."""
    for tidy in (bool, gc.collect):
        tidy()
        now = state_of_process()
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if not changed:
            break
    return changed


def _of_client(modules: Mapping[str, Any]) -> dict[str, Any]:
    """Return what requests of this thread would follow, and whether it still owns a lock.

    Tests that do not import the client need not import it for this.
    """
    state: dict[str, Any] = {"transfer": None, "silence": None, "calls": None, "locks": []}
    if (connections := modules.get("comfy_client.transport.connections")) is not None:
        state["transfer"] = connections.current.get()
    if (deadline := modules.get("comfy_client.transport.deadline")) is not None:
        silence = deadline.read_timeout.get()
        state["silence"] = None if silence == float("inf") else silence
        state["calls"] = deadline.parallel_calls.get()
    if (locks := modules.get("comfy_client.locks")) is not None:
        known = [ref() for refs in (locks._locks, locks._small_locks) for ref in list(refs)]
        state["locks"] = [lock for lock in known if lock is not None and lock._is_owned()]
    return state
