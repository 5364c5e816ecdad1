"""The report of the doctor on a server."""

from __future__ import annotations

from typing import Any

from comfy_client import (
    ComfyApi,
    DoctorReport,
    Timing,
)


class Impatient(ComfyApi):
    """Watches a queue only for a moment."""

    timing = Timing(watch=0.02)


def ask(host: str, *, run: bool = False, timeout: float = 30.0, **options: Any) -> DoctorReport:
    """The report of a client that was never initialised."""
    api = Impatient(host, **options)
    try:
        return api.doctor(run, timeout=timeout)
    finally:
        api.close()


def states(report: DoctorReport, *but: str) -> dict[str, str]:
    """What is not fine, by name, but for the packages of whoever runs the tests."""
    but = (*but, "packages")
    return {c.name: c.state for c in report if c.state != "ok" and c.name not in but}


def failing(report: DoctorReport) -> list[str]:
    """The names of what failed."""
    assert not report.ok
    return [check.name for check in report if check.state == "failed"]


def blamed(report: DoctorReport, name: str) -> list[str]:
    """What was not looked at, since another check failed."""
    return [check.name for check in report if check.because == name]
