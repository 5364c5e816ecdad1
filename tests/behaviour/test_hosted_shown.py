"""Clients, jobs and results of hosted servers as a reader sees them: no key, no signed URL."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import CloudApi, HostedApi, JobFailed
from comfy_client.testing import ComfyServer
from tests.helpers.records import graph

KEY = "a-key-of-42-letters"


class Failing:
    """A node that raises an exception."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ()
    FUNCTION = "fail"
    OUTPUT_NODE = True

    def fail(self) -> None:
        raise ValueError("on purpose")


@pytest.fixture(params=["proxy", "serverless", "cloud"])
def server(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    with ComfyServer(hosted=request.param, credentials=KEY) as running:
        running.add_node(Failing)
        yield running


def shown(thing: Any) -> str:
    """Return all that a notebook, a terminal and JSON show of something."""
    bundle = getattr(thing, "_repr_mimebundle_", dict)()
    told = thing.to_dict() if hasattr(thing, "to_dict") else None
    return "\n".join([repr(thing), str(thing), *map(str, bundle.values()), json.dumps(told)])


def test_a_job_and_its_result_are_shown_with_their_pictures(server: ComfyServer) -> None:
    with HostedApi(server.url, KEY) as api:
        job = api.submit(graph())
        result = job.result(timeout=60)
        for thing in (job, result, result.images[0]):
            text = shown(thing)
            assert "data:image/" in text
            assert KEY not in text
        assert not [file["url"] for file in result.to_dict()["files"] if "?" in file["url"]]
        assert "Result 1 image" in repr(result)
        storage = server.gateway.storage_requests
        assert all(KEY not in str(one.headers) for one in storage)


def test_a_failed_job_is_shown_with_its_error(server: ComfyServer) -> None:
    with HostedApi(server.url, KEY) as api:
        job = api.submit({"1": {"class_type": "Failing", "inputs": {}}})
        with pytest.raises(JobFailed, match="on purpose"):
            job.result(timeout=60)
        assert "on purpose" in shown(job)
        assert KEY not in shown(job)


def test_a_client_is_shown_by_its_class_and_host(server: ComfyServer) -> None:
    for kind in (HostedApi, CloudApi):
        api = kind(base_url=server.url, api_key=KEY)
        assert repr(api) == f"<{kind.__name__} {server.url} idle>"
        assert repr(api.hosted) == f"<HostedRoutes {server.url}>"
        api.close()


def test_values_of_hosted_routes_hide_signed_urls(server: ComfyServer) -> None:
    with HostedApi(server.url, KEY) as api:
        found = api.run(graph(), timeout=60)
        job = api.hosted.job(found.prompt_id)
    (output,) = job.outputs
    for thing in (job, output):
        text = repr(thing) + str(thing)
        assert KEY not in text
        assert "signature" not in text
        assert server.gateway.storage_url not in text


def test_a_signed_url_is_in_no_pickle_and_no_journal(server: ComfyServer, tmp_path: Path) -> None:
    """A file is read by its id later, also from a journal."""
    journal = tmp_path / "journal.db"
    with HostedApi(server.url, KEY) as api:
        found = api.run(graph(), timeout=60)
        job = api.hosted.job(found.prompt_id)
        upload = api.upload_image(found.image.bytes(), "again.png")
        asset = api.hosted.asset(upload.raw["id"])
        for thing in (job, job.outputs[0], found, upload, asset):
            assert b"signature" not in pickle.dumps(thing)
            assert b"?" not in pickle.dumps(getattr(thing, "url", ""))
        assert pickle.loads(pickle.dumps(upload)).ref == upload.ref
        grid = {"1.color": [1, 2]}
        list(api.sweep(graph(), grid, journal=journal))
        assert not [one for one in tmp_path.iterdir() if b"signature" in one.read_bytes()]
        for row in api.sweep(graph(), grid, journal=journal):
            assert row.from_journal
            assert row.result is not None
            assert row.result.image.bytes()
