"""A command has the client id of a detached prompt for itself."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest

from comfy_client import ComfyApi
from comfy_client.cli.following import held, receiving
from comfy_client.cli.mine import mark
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import LIMIT
from tests.helpers.servers import add_test_content

ID = str(uuid.uuid4())


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    mark()


def test_only_one_has_an_id_and_leaves_no_file(tmp_path):
    """Another has it afterwards; other ids are free."""
    for _ in range(2):
        with held(ID) as first, held(ID) as second, held(str(uuid.uuid4())) as other:
            assert (first, second, other) == (True, False, True)
    assert not list(tmp_path.rglob("*.lock"))


def test_where_no_file_can_be_written_nobody_has_an_id(monkeypatch):
    """As nobody knows whether another has it."""
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    with held(ID) as is_held:
        assert not is_held


@pytest.mark.parametrize(
    ("extra", "adopts"),
    [
        ({"own": True, "detached": True}, True),
        ({"own": True, "detached": False}, False),
        ({"own": False, "detached": True}, False),
    ],
)
def test_only_of_an_own_detached_prompt_the_events_are_received(extra, adopts, monkeypatch):
    """Another client may wait for those of others."""
    marks = mark(detached=extra["detached"])
    with ComfyServer() as server, ComfyApi(server.url, transport="poll") as sender:
        add_test_content(server)
        job = sender.submit(load_workflow("sleep", seconds=60.0, ticks=600), extra_data=marks)
        server.until(lambda: server.running, LIMIT)
        if not extra["own"]:
            monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
        with contextlib.closing(ComfyApi(server.url)) as api:
            own = api.client_id
            with receiving(api, job.prompt_id, quiet=True):
                assert api.client_id == (sender.client_id if adopts else own)
        job.cancel()


def test_of_a_prompt_that_has_ended_no_events_are_expected():
    """Nor of one with an id that is none."""
    with ComfyServer() as server, ComfyApi(server.url, transport="poll") as sender:
        add_test_content(server)
        job = sender.submit(load_workflow("fail"), extra_data=mark(detached=True))
        job.exception(LIMIT)
        server.until(lambda: not server.running, LIMIT)
        with contextlib.closing(ComfyApi(server.url)) as api:
            own = api.client_id
            with receiving(api, job.prompt_id, quiet=True):
                assert api.client_id == own
        with ComfyApi(server.url, client_id="../x", transport="poll") as odd:
            strange = odd.submit(
                load_workflow("sleep", seconds=60.0, ticks=600), extra_data=mark(detached=True)
            )
            with contextlib.closing(ComfyApi(server.url)) as api:
                own = api.client_id
                with receiving(api, strange.prompt_id, quiet=True):
                    assert api.client_id == own
            strange.cancel()
