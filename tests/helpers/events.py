"""Events as a server, or the client itself, makes them."""

from __future__ import annotations

import functools

from comfy_client.event_queue import EventQueue
from comfy_client.events import Event, NotificationEvent, Progress, UnknownEvent


def note(value: object = 1) -> Event:
    return NotificationEvent(name="notification", value=str(value))


def progress(value: float, node: str = "3", prompt_id: str = "p") -> Event:
    return Progress(name="progress", value=value, max=9, node=node, prompt_id=prompt_id)


def mine(value: object, name: str = "mine") -> Event:
    return UnknownEvent(name=name, data=value)


def drained(events: EventQueue) -> list[Event]:
    """All that waits."""
    return list(iter(functools.partial(events.get, 0), None))
