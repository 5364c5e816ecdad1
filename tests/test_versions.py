"""The table of versions, and what the tested servers do not show any more."""

from __future__ import annotations

import docutils.core
import docutils.nodes
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import NotFound, NotSupported
from comfy_client.testing import ComfyServer
from tests.comfyui import VERSIONS
from tests.versions import TABLE, TESTED, has, rst

#: The answer of aiohttp before 3.10 to a GET of an unknown path.
OLD_404 = (404, {"Content-Type": "text/plain; charset=utf-8"}, "404: Not Found")


def test_the_table_is_proper_rst() -> None:
    """A row a feature, a column a version, and nothing that docutils complains about."""
    document = docutils.core.publish_doctree(rst(), settings_overrides={"halt_level": 2})
    (body,) = document.findall(docutils.nodes.tbody)
    rows = [[cell.astext() for cell in row] for row in body]
    assert len(rows) == len(TABLE)
    for row, cells in zip(TABLE, rows, strict=True):
        assert cells[0] == row.what.replace("``", "")
        assert cells[1:-1] == ["yes" if row.is_in(version) else "no" for version in TESTED]
        assert " ".join(cells[-1].split()) == row.without.replace("``", "")


def test_the_tested_versions_can_be_set_up() -> None:
    """And each row says which of them begins to have it."""
    assert set(TESTED) <= set(VERSIONS)
    assert {row.since for row in TABLE} <= {*TESTED[1:], None}
    assert not has("2024-03", "get_models")
    assert has("2024-03", "get_queue")
    with pytest.raises(KeyError):
        has("2024-03", "no such feature")


def test_an_old_aiohttp_says_in_words_that_a_route_is_missing(comfy: ComfyServer) -> None:
    """Before 3.10; the 404 of a real route has no body, or another."""
    comfy.on("GET", "/models*", OLD_404)
    comfy.on("GET", "/userdata/*", (404, {}, None))
    comfy.on("GET", "/v2/userdata", (404, {}, "Requested path not found"))
    api = ComfyApi(comfy.url)
    for ask in (api.get_model_types, lambda: api.get_models("loras")):
        with pytest.raises(NotSupported):
            ask()
    with pytest.raises(NotFound):
        api.get_user_data("a")
    assert api.list_user_data_v2("a") == []
    api.close()


def test_a_server_without_api_is_found_behind_an_old_aiohttp(comfy: ComfyServer) -> None:
    """The first request goes to both places, the later ones only to the right one."""
    comfy.faults.missing("*", "/api/*")
    comfy.on("GET", "*", lambda r: OLD_404 if r.target.startswith("/api/") else comfy.answer(r))
    api = ComfyApi(comfy.url)
    assert api.get_queue().pending == ()
    before = len(comfy.requests)
    assert api.poll_status().queue_remaining == 0
    assert [request.target for request in comfy.requests[before:]] == ["/prompt"]
    api.close()
