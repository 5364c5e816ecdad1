"""Exclusive use of a detached prompt's client id by one command."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from pathlib import Path

import pytest

from comfy_client import ComfyApi
from comfy_client.cli.own_prompts import held, mark, receiving
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import LIMIT
from tests.helpers.servers import add_test_content

ID = str(uuid.uuid4())
#: Marks of tests that hold an id, by what Windows has or by what POSIX has.
HOLDS = [] if hasattr(os, "O_TEMPORARY") else [pytest.mark.posix("locks of files")]


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    mark()


@pytest.mark.parametrize("without", [pytest.param(one, marks=HOLDS) for one in (None, "fcntl")])
def test_a_client_id_is_held_only_once_and_leaves_no_file(without, tmp_path, monkeypatch):
    """It is free afterwards; other ids are free all the time.  Windows has no ``fcntl``."""
    if without:
        monkeypatch.setitem(sys.modules, without, None)
        monkeypatch.setattr(os, "O_TEMPORARY", getattr(os, "O_TEMPORARY", 0), raising=False)
    for _ in range(2):
        with held(ID) as first, held(ID) as second, held(str(uuid.uuid4())) as other:
            assert (first, second, other) == (True, False, True)
    assert not list(tmp_path.rglob("*.lock"))


def test_no_client_id_is_held_where_no_file_can_be_written(tmp_path, monkeypatch):
    """Whether another command has it is not known there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with held(ID) as is_held:
        assert not is_held


@pytest.mark.parametrize(
    ("extra", "adopts"),
    [
        pytest.param({"own": True, "detached": True}, True, marks=HOLDS),
        ({"own": True, "detached": False}, False),
        ({"own": False, "detached": True}, False),
    ],
)
def test_events_of_detached_prompts_are_received_for_ours_only(extra, adopts, monkeypatch):
    """Another client may wait for the events of others."""
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


def test_no_events_are_expected_of_a_prompt_that_has_ended():
    """Nor of a prompt whose client id is invalid."""
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
