"""What an answer may cost: its time and its memory have a limit, whatever a server sends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy_client.testing
from comfy_client import ComfyApi
from comfy_client.errors import RequestTimeout
from comfy_client.transport.http import MAX_JSON
from comfy_client.values import seconds_to_decode
from tests.hostile.server import Comfy, answer

#: Seconds; what is below takes about twice as long to decode, or to make into models.
TIMEOUT = 0.5

#: The worst of what may be decoded at all: by the garbage collector, by new keys.
LISTS = b"[" + b"[[]]," * 1_800_000 + b"0]"
KEYS = b"{" + b",".join(b'"%x":{}' % n for n in range(1_000_000)) + b"}"


@pytest.fixture(scope="module")
def server() -> Iterator[Comfy]:
    with Comfy() as server:
        yield server


@pytest.fixture
def api(server: Comfy) -> Iterator[ComfyApi]:
    with ComfyApi(server.url, transport="poll", timeout=TIMEOUT) as api:
        api.poll_status(5.0)  # learns where the routes are
        yield api


def out_of_time(ask: Callable[[], Any], *, most: float) -> str:
    """What a call says that ends by its timeout, after so many seconds of work at most."""
    begun = time.thread_time()
    with pytest.raises(RequestTimeout) as caught:
        ask()
    assert time.thread_time() - begun < most
    return str(caught.value)


@pytest.mark.parametrize("body", [LISTS, KEYS], ids=["lists", "keys"])
def test_timeout_holds_for_what_takes_long_to_decode(
    server: Comfy, api: ComfyApi, body: bytes
) -> None:
    """One call of C, which nothing interrupts: so it is not begun."""
    server.lies = {"GET /settings": lambda _: answer(200, body)}
    said = out_of_time(api.get_settings, most=2 * TIMEOUT)
    # A machine that is busy enough has not even read it all by then.
    assert "s to decode" in said or "dripping" in said


WALKS: dict[str, tuple[Callable[[ComfyApi], Any], Any]] = {
    "GET /queue": (
        ComfyApi.get_queue,
        {"queue_running": [], "queue_pending": [[1, "a"]] * 200_000},
    ),
    "GET /history": (
        ComfyApi.get_histories,
        {str(n): {"prompt": [1, "a"]} for n in range(100_000)},
    ),
    "GET /v2/userdata": (
        ComfyApi.list_user_data_v2,
        [{"name": "a", "path": "a", "type": "file"}] * 150_000,
    ),
}


@pytest.mark.parametrize("route", WALKS)
def test_timeout_holds_for_what_becomes_many_models(
    server: Comfy, api: ComfyApi, route: str
) -> None:
    """Each of them is made quickly; their number is the server's."""
    ask, value = WALKS[route]
    body = json.dumps(value, separators=(",", ":")).encode()
    server.lies = {route: lambda _: answer(200, body)}
    said = out_of_time(lambda: ask(api), most=2 * TIMEOUT)
    assert "raise timeout, or ask for less" in said or "dripping" in said


def test_what_a_comfyui_sends_is_decoded_within_the_usual_timeout() -> None:
    """20 MB of definitions, as of a large installation, and a history of 64 MiB."""
    files = [*Path(comfy_client.testing.__file__).parent.glob("definitions*.json")]
    files += Path(__file__).parent.parent.joinpath("workflows").glob("*.json")
    assert files
    for path in files:
        content = path.read_bytes()
        assert seconds_to_decode(content) / len(content) * MAX_JSON < 12.0


@pytest.mark.parametrize("unit", ["[[]],", '"ab",', '{"a":1},', "1,"])
def test_the_estimate_is_none_too_low(unit: str) -> None:
    """With room for a busy machine; and none too high, lest what is honest is refused."""
    body = f"[{unit * ((1 << 20) // len(unit))}0]".encode()
    begun = time.thread_time()
    json.loads(body)
    assert (time.thread_time() - begun) / 5 < seconds_to_decode(body) < 1.0
