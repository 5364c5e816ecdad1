"""Answers of Comfy API v2 as values: both spellings, and whatever a server may send."""

from __future__ import annotations

import copy
import json
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.errors import UnexpectedResponse
from comfy_client.hosted.models import (
    Asset,
    HostedJob,
    HostedJobs,
    HostedOutput,
    HostedProgress,
    ServerEvent,
    time_of,
)

OUTPUT = {
    "node_id": "4",
    "name": "tiny_00001_.png",
    "type": "image",
    "content_type": "image/png",
    "size_bytes": 0,
    "id": "eyJqIjogIjEifQ.LPJX5J3yk1R",
    "hash": None,
    "url": "http://PROXY/api/v2/assets/eyJqIjogIjEifQ.LPJX5J3yk1R/content",
    "url_expires_at": "2026-11-29T22:43:08.508938+00:00",
    "job_id": "1c11861b-8a71-4457-983f-de9ceb8b54ff",
}
JOB = {
    "id": "1c11861b-8a71-4457-983f-de9ceb8b54ff",
    "status": "succeeded",
    "created_at": "2026-11-28T22:43:08.508938+00:00",
    "started_at": None,
    "completed_at": None,
    "expires_at": "2026-11-29T22:43:08.508938+00:00",
    "queue_position": None,
    "progress": {"value": 0.0, "nodes_done": 0, "nodes_total": 0},
    "outputs": [OUTPUT],
    "error": None,
    "outputs_reused": False,
    "metadata": "kept",
    "urls": {"self": "http://PROXY/api/v2/jobs/1"},
}
ERROR = {
    "code": "node_execution_error",
    "message": "boom",
    "node_id": "2",
    "class_type": "CloudFail",
    "traceback": None,
}
#: The time of all of them.
CREATED = 1795905788.508938


def test_a_job_of_the_proxy() -> None:
    """Its size is unknown, not 0; its times are in seconds."""
    job = HostedJob.from_json(JOB)
    assert (job.id, job.status, job.label, job.is_ended) == (JOB["id"], "succeeded", "kept", True)
    assert (job.created_at, job.started_at, job.queue_position) == (CREATED, None, None)
    [output] = job.outputs
    assert (output.name, output.size_bytes, output.hash, output.key) == (
        "tiny_00001_.png",
        None,
        None,
        "images",
    )
    assert output.url == OUTPUT["url"]
    assert job.progress is not None
    assert (job.progress.value, job.progress.nodes_total) == (0.0, 0)
    assert job.raw == JOB


def test_a_failed_job_says_why() -> None:
    """The traceback may be text, a list of lines, or missing."""
    for given_, expected in ((None, None), ("a\nb", "a\nb"), (["a\n", "b"], "a\nb")):
        error = {**ERROR, "traceback": given_}
        failure = HostedJob.from_json({**JOB, "status": "failed", "error": error}).error
        assert failure is not None
        assert (failure.code, failure.node_id, failure.traceback) == (
            "node_execution_error",
            "2",
            expected,
        )


def test_job_lists_of_proxy_and_serverless_are_read() -> None:
    """Of the proxy with whole jobs, of serverless deployments with records and a cursor."""
    page = HostedJobs.from_json({"jobs": [JOB], "truncated": True})
    assert (len(page.jobs), page.truncated, page.next_cursor) == (1, True, None)
    record = {
        "id": "j-1",
        "status": "running",
        "create_time": "2026-11-28T22:43:08.508938Z",
        "update_time": 1795905789,
        "deployment_id": "d",
        "metadata": {"comfy_client": "u-1", "bad": 5},
    }
    page = HostedJobs.from_json({"jobs": [record], "next_cursor": "abc"})
    [job] = page.jobs
    assert (job.created_at, job.updated_at) == (CREATED, 1795905789)
    assert job.label == {"comfy_client": "u-1"}
    assert (page.truncated, page.next_cursor, job.outputs, job.urls) == (True, "abc", (), {})
    assert not HostedJobs.from_json({"jobs": []}).truncated


@pytest.mark.parametrize("status", ["queued", "running", "canceling", "paused", "SUCCEEDED"])
def test_a_status_is_kept_as_it_is(status: str) -> None:
    """Only the four of the specification are ends."""
    job = HostedJob.from_json({"id": "1", "status": status})
    assert (job.status, job.is_ended) == (status, False)


@pytest.mark.parametrize(
    "data", [None, [], "x", {}, {"id": "1"}, {"status": "queued"}, {"id": [], "status": "queued"}]
)
def test_a_malformed_hosted_job_is_an_unexpected_response(data: object) -> None:
    """An id and a status are the least."""
    with pytest.raises(UnexpectedResponse):
        HostedJob.from_json(data)
    with pytest.raises(UnexpectedResponse):
        HostedJobs.from_json({"jobs": [data]})


@pytest.mark.parametrize("asset_id", ["", ".", "..", "a\n", "x" * 5000, None, 5])
def test_an_asset_has_an_id_that_can_be_asked_for(asset_id: object) -> None:
    """An output without one has a URL at best."""
    with pytest.raises(UnexpectedResponse):
        Asset.from_json({"id": asset_id})
    assert HostedOutput.from_json({"name": "a", "id": asset_id}).id is None


@pytest.mark.parametrize("outputs", [None, {}, "x", [None, 5, {}, {"name": ""}, {"name": 7}]])
def test_outputs_without_a_name_are_left_out(outputs: object) -> None:
    """The others are kept."""
    listed = [*outputs, OUTPUT] if isinstance(outputs, list) else outputs
    job = HostedJob.from_json({**JOB, "outputs": listed})
    assert [one.name for one in job.outputs] == ["tiny_00001_.png"] * isinstance(outputs, list)


def test_an_output_is_one_of_a_node() -> None:
    """In ComfyUI's shape, with all that the server said; ``type`` is ComfyUI's folder."""
    output = HostedOutput.from_json(OUTPUT)
    shaped = output.to_comfyui()
    assert shaped == {
        **OUTPUT,
        "media_type": "image",
        "filename": "tiny_00001_.png",
        "subfolder": "",
        "type": "output",
    }
    assert json.loads(json.dumps(shaped)) == shaped
    kinds = ("image", "video", "audio", "latent", "text", "file", "hologram")
    keys = [HostedOutput.from_json({**OUTPUT, "type": kind}).key for kind in kinds]
    assert keys == ["images", "images", "audio", "latents", "files", "files", "files"]


def test_a_signed_url_is_in_no_repr() -> None:
    """Of a job, an output or an asset; a pickle of the output loses it."""
    signed = {**OUTPUT, "url": "https://s.example/x?sig=secret"}
    job = HostedJob.from_json({**JOB, "outputs": [signed]})
    asset = Asset.from_json({"id": "a", "url": signed["url"]})
    output = job.outputs[0]
    for value in (job, asset, output, output.to_comfyui()):
        assert "secret" not in repr(value)
    for one in (job, asset, output):
        assert "secret" not in json.dumps(one.to_dict())
    assert "secret" not in repr(pickle.dumps(output.to_comfyui()))
    again = pickle.loads(pickle.dumps(output.to_comfyui()))
    assert HostedOutput.from_json(again).url is None
    assert copy.deepcopy(output.to_comfyui())["url"] == signed["url"]


def test_an_asset_is_referred_to_by_all_that_is_known() -> None:
    """The id is required; a hash alone works on the proxy only."""
    asset = Asset.from_json(
        {"id": "a-1", "hash": "blake3:00", "file_path": "p.png", "size_bytes": 9}
    )
    assert asset.reference == {
        "__type": "core/ASSET",
        "info": {"id": "a-1", "hash": "blake3:00", "file_path": "p.png"},
    }
    assert Asset.from_json({"id": "a-1"}).reference["info"] == {"id": "a-1"}


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this machine into a time zone that is not that of servers."""
    if not hasattr(time, "tzset"):  # Windows has one zone for all processes
        yield
        return
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-9")  # nine hours before UTC, without a database of zones
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-28T22:43:08.508938+00:00", CREATED),
        ("2026-11-28T22:43:08.508938Z", CREATED),
        ("2026-11-28T22:43:08.508938", CREATED),
        ("2026-11-28T23:43:08.508938+01:00", CREATED),
        (CREATED, CREATED),
        (CREATED * 1000, CREATED),
        ("yesterday", None),
        ("9" * 100, None),
        ("", None),
        (None, None),
        (True, None),
        ([], None),
    ],
)
def test_times_are_in_seconds(far_away: None, text: object, seconds: float | None) -> None:
    """Of ISO 8601, or numbers of seconds or milliseconds, wherever the client is."""
    assert time_of(text) == pytest.approx(seconds) if seconds else time_of(text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*JOB, *OUTPUT, "next_cursor"), JSON)))
def test_hosted_fields_with_any_content_are_a_value_or_unexpected(fields: dict[str, Any]) -> None:
    """Nothing else is raised, and ``to_dict`` works."""
    for kind in (HostedJob, HostedJobs, HostedOutput, Asset, HostedProgress):
        try:
            found = kind.from_json(
                {"id": "1", "status": "queued", "jobs": [], "name": "a", **fields}
            )
        except UnexpectedResponse:
            continue
        json.dumps(found.to_dict(), allow_nan=False)
        repr(found)


def test_the_name_of_an_event_is_short() -> None:
    """Whatever the server calls it."""
    assert len(ServerEvent("x" * 10_000).name) <= 256
