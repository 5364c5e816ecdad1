"""Each recorded request to the real proxy, asked of the embedded one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client.testing import ComfyServer, HostedTraps
from tests.helpers.hosted_recordings import Player, recordings
from tests.helpers.long import few

#: The version that is imitated for each recorded one.
VERSIONS: dict[str, Any] = {"0.33.0": "0.33", "0.3.75": "0.3.75"}
CASES = few(
    [(version, name) for version in VERSIONS for name in recordings(version)],
    len(recordings("0.33.0")),
)
#: What a recorded proxy was started with.
OPTIONS: dict[str, dict[str, Any]] = {
    "token": {
        "credentials": "secret",
        "max_upload_size": 2**20,
        "allowed_hosts": ["*"],
        "traps": HostedTraps(
            keeps_state=True, places_models=True, origins=("https://app.example",)
        ),
    },
    "server_down": {"traps": HostedTraps(upstream="down")},
    "big_files": {"max_upload_size": 100 * 2**10},
}


@pytest.fixture
def server(version: str, name: str) -> Iterator[ComfyServer]:
    options = OPTIONS.get(name, {})
    with ComfyServer(hosted="proxy", version=VERSIONS[version], **options) as running:
        yield running


@pytest.mark.parametrize(("version", "name"), CASES)
def test_the_embedded_proxy_answers_as_the_real_one(
    server: ComfyServer, version: str, name: str
) -> None:
    lines = recordings(version)[name]
    requests = [line for line in lines if line["kind"] in ("http", "sse_open")]
    assert Player(server, name, lines).play() == len(requests)
