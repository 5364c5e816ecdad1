"""A job comes to its end in each place, whatever trap is set; it runs once."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import HostedApi
from comfy_client.testing import ComfyServer
from comfy_client.testing.hosted.traps import HostedKind
from tests.helpers.graphs import fresh_color
from tests.helpers.long import few
from tests.helpers.records import graph

PLACES: tuple[HostedKind, ...] = ("proxy", "serverless", "cloud")
TRAPS: tuple[dict[str, Any], ...] = (
    {},
    {"false_expired": 1},
    {"false_expired": 1, "false_expired_looks": 3},
    {"unknown_looks": 3},
    {"outputs_after_status": "always"},
    {"outputs_after_status": "never"},
    {"early_end": True},
    {"true_sizes": True, "true_hashes": True},
    {"true_sizes": False, "true_hashes": False},
    {"true_ids": False},
    {"job_list": "none"},
    {"job_list": "jobs"},
    {"job_list": "records"},
    {"events": False},
    {"max_streams": 0},
    {"labels": "string"},
    {"labels": "map"},
    {"labels": "none"},
    {"labels": "dropped"},
    {"relative_urls": True, "storage": False},
    {"relative_urls": True, "storage": True},
    {"bad_range": 416},
    {"every_status": True},
    {"every_status": False},
    {"cut_stream_after": 0},
    {"cut_stream_after": 1},
    {"cut_stream_after": 2},
    {"shares_records": True},
    {"shares_records": False},
    {"keeps_state": False},
    {"timestamps": True},
)


@pytest.mark.parametrize("place", few(PLACES, 1))
@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_a_job_ends_well_whatever_trap_is_set(place: HostedKind, trap: dict[str, Any]) -> None:
    with (
        ComfyServer(hosted=place, credentials="secret", version="0.28") as server,
        server.gateway.trap(**trap),
        HostedApi(server.url, "secret") as api,
    ):
        for count in (1, 2):  # the second time, the client has learned what it can
            result = api.run(graph(fresh_color()), timeout=120)
            assert [image.bytes()[:4] for image in result.images] == [b"\x89PNG"]
            assert len(server.ran) == count
        stored = server.gateway.storage_requests
        assert all("Authorization" not in request.headers for request in stored)
