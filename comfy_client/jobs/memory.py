"""The server's memory: wait for free VRAM, and retry prompts that ran out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from ..errors import (
    ClientClosed,
    ComfyError,
    JobFailed,
    NotSupported,
    VramTimeout,
    printable,
)
from ..models import Device
from ..routes import Routes
from ..timing import Timing
from ..transport.backoff import Backoff
from ..transport.deadline import Deadline, limited_silence
from ..transport.failures import is_away
from ..workflow import Workflow
from ..workflow.edit import graph_of
from ..workflow.seeds import draw_wanted
from .handle import Limits
from .poller import Poller
from .result import Result

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds between two looks at the memory: the first pause, and the longest one.
_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0


def wait_for_vram(
    routes: Routes, poller: Poller, nbytes: int, device: int | None, timeout: float | None
) -> Device:
    """Implement :meth:`ComfyApi.wait_for_vram`."""
    if not isinstance(nbytes, int) or isinstance(nbytes, bool):
        raise TypeError(f"VRAM must be a whole number of bytes, not {nbytes!r:.80}")
    if nbytes < 0:
        raise ValueError("VRAM must be 0 or more bytes")
    deadline = Deadline.after(timeout)
    pauses = Backoff(_PAUSE, _LONGEST_PAUSE, factor=1.6, jitter=0.0)
    while True:
        found: Device | None = None
        trouble: ComfyError | None = None
        try:
            with limited_silence(max(_PAUSE, deadline.left(poller.timing.question))):
                found = _device(routes.get_system_stats().devices, device)
        except ComfyError as exc:
            if not is_away(exc):
                raise
            trouble = exc
        if found is not None:
            _check_size(found, nbytes)
            if (found.vram_free or 0) >= nbytes:
                return found
        if deadline.expired:
            raise _timed_out(found, nbytes, timeout) from trouble
        if poller.tracker.wake.wait_stopped(deadline.left(pauses.next())):
            raise ClientClosed


def _device(devices: Sequence[Device], index: int | None) -> Device:
    """Return a device by index (None: the main one); raise unless its free VRAM is known."""
    if index is None:
        found = devices[0] if devices else None
    else:
        found = next((one for one in devices if (one.index or 0) == index), None)
    if found is not None and found.type != "cpu" and found.vram_free is not None:
        return found
    if found is None and devices:
        known = ", ".join(str(one.index or 0) for one in devices)
        raise ValueError(f"the server has no device {index}; it has: {known}")
    is_cpu = found is not None and found.type == "cpu"
    why = "it computes on the CPU" if is_cpu else "it does not say how much it has"
    raise NotSupported(f"this server has no VRAM to wait for: {why}", path="/system_stats")


def _check_size(device: Device, nbytes: int) -> None:
    if device.vram_total is not None and nbytes > device.vram_total:
        raise ValueError(
            f"{_name(device)} has {_gib(device.vram_total)} of VRAM in all, so {_gib(nbytes)} will "
            "never be free"
        )


def _timed_out(device: Device | None, nbytes: int, timeout: float | None) -> VramTimeout:
    free = None if device is None else device.vram_free
    if device is None or free is None:
        what = "the server did not answer"
    else:
        what = f"{_name(device)} has {_gib(free)} free"
    return VramTimeout(
        f"waited {timeout or 0:g} s for {_gib(nbytes)} of free VRAM, and {what}: call free_memory, "
        "or wait for the prompts that run",
        wanted=nbytes,
        free=free,
        device=None if device is None else device.name,
    )


def _name(device: Device) -> str:
    return printable(device.name[:100])


def _gib(nbytes: int) -> str:
    return f"{min(nbytes, 1 << 80) / 2**30:.2f} GiB"  # a server may say anything


# -- once more -----------------------------------------------------------------------------


def run_again_after_oom(
    server: Callable[[], Routes],
    timing: Timing,
    limits: Limits,
    attempt: Callable[[Workflow], Result],
    workflow: Workflow,
) -> Result:
    """Run a workflow, and once more with freed memory if a node runs out of memory.

    ``server`` returns the server of the last attempt.
    """
    workflow = workflow.copy()
    draw_wanted(graph_of(workflow))  # both run with the same seeds
    try:
        return attempt(workflow)
    except JobFailed as exc:
        if not exc.is_oom:
            raise
        failed = exc
    try:
        _free_all(server(), timing, failed, limits)
        try:
            return attempt(workflow)
        except ComfyError as exc:
            raise exc from failed
    finally:
        del failed  # an error, its traceback and this frame make no circle


def _free_all(routes: Routes, timing: Timing, failed: JobFailed, limits: Limits) -> None:
    """Have the server free its memory; raise the failure if that does not work."""
    log.warning(
        "prompt %s ran out of memory (%s); the server frees its memory, and it runs once more",
        failed.prompt_id,
        str(failed).partition("\n")[0],
    )
    try:
        with limited_silence(max(_PAUSE, limits.left(timing.question))):
            freed = limits.left(timing.freed)
            routes.free_memory(unload_models=True, free_memory=True, wait=freed)
    except ClientClosed:
        raise
    except ComfyError as exc:
        failed.add_note(f"not tried again, since its memory could not be freed: {exc}")
        raise failed from exc
    if limits.left(1.0) <= 0:
        failed.add_note("not tried again, since the timeout has passed")
        raise failed
