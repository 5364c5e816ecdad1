"""What a client is made with: mistakes are told when it is made, not when it is used."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import ComfyApi


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"client_id": 8188}, TypeError, "a port goes into host, as in 'gpu-box:8188'"),
        ({"client_id": ""}, ValueError, "client_id is empty; None makes one"),
        ({"host": "me:mine@here", "credentials": ("me", "mine")}, ValueError, "both in host and"),
        ({"transport": "websocket"}, ValueError, "transport"),
    ],
)
def test_a_mistake_is_told_when_the_client_is_made(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ComfyApi(**arguments)
