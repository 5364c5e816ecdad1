"""What ``comfy-client watch`` says to people of an event."""

from __future__ import annotations

from comfy_client import ServerUnreachable
from comfy_client.cli.watch_command import line_of
from comfy_client.events import ConnectionEvent


def said(event: ConnectionEvent) -> str:
    """Without the time."""
    return " ".join(line_of(event.to_dict()).split()[1:])


def test_a_lost_connection_says_why_and_seconds_are_rounded() -> None:
    """Whole, and not as Python writes it."""
    why = f"the server is away {'x' * 300}."
    lost = ConnectionEvent(name="disconnected", error=ServerUnreachable(why))
    assert said(lost) == f"disconnected {why}"
    again = ConnectionEvent(name="reconnecting", attempt=1, delay=0.3515390825934279)
    assert said(again) == "reconnecting delay 0.4 s"


def test_a_fact_that_is_an_object_is_short_json() -> None:
    """Of an event that nobody knows."""
    change = {"name": "custom", "data": {"a": [True, None]}}
    assert line_of(change).endswith('data {"a": [true, null]}')
