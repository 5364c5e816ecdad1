"""Receivers of a client, without a server."""

from __future__ import annotations

import functools
from typing import Any

import blinker

from comfy_client.signals import Receivers

LIMIT = 60.0  # seconds that any wait in here may take


class Client:
    """Stands for a ComfyApi as the sender."""


class Station:
    """Receivers of a client, in a namespace of its own."""

    def __init__(self, namespace: blinker.Namespace | None = None) -> None:
        self.client = Client()
        self.namespace = blinker.Namespace() if namespace is None else namespace
        self.receivers = Receivers(self.client, self.namespace)
        self.publish = self.receivers.publish
        self.on = functools.partial(self.receivers.on, once=False)

    def connect(self, name: str, receiver: Any, **kw: Any) -> None:
        self.namespace.signal(name).connect(receiver, **kw)

    def flush(self) -> None:
        self.receivers.flush(LIMIT)


class Box:
    """Receivers that are methods."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def method(self, sender: object, event: Any) -> None:
        self.got.append((sender, event))

    @classmethod
    def of_class(cls, sender: object, event: Any) -> None:
        event.raw.append((sender, event))

    @staticmethod
    def static(sender: object, event: Any) -> None:
        event.raw.append((sender, event))
