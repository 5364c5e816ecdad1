"""The table of versions, and what the tested servers do not show any more."""

from __future__ import annotations

import configparser
import inspect
import re
import uuid
from typing import Any

import docutils.core
import docutils.nodes
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import NotFound, NotSupported
from comfy_client.since import SINCE, who_has
from comfy_client.testing import ComfyServer
from tests import comfy_api_proxy, real_manager
from tests.comfyui import VERSIONS
from tests.guide import README, section_of
from tests.helpers.march_2024 import March2024
from tests.test_public_api import LIST, MODULES
from tests.versions import BY_HAND, TABLE, TESTED, age, has, rst

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
        there = ["yes" if row.is_in(version) else "no" for version in (*TESTED, *BY_HAND)]
        assert cells[1:-1] == there
        assert " ".join(cells[-1].split()) == row.without.replace("``", "")


def test_the_tested_versions_can_be_set_up() -> None:
    """And each row tells some of them from others, or from newer ones."""
    assert set(TESTED) <= set(VERSIONS)
    assert [*TESTED, *BY_HAND] == sorted((*TESTED, *BY_HAND), key=age)
    assert not [row.what for row in TABLE if row.is_in("2024-03")]
    assert [row.what for row in TABLE if not row.is_in("0.28")] == []
    assert not has("2024-03", "get_models")
    assert has("2024-03", "get_queue")
    with pytest.raises(KeyError):
        has("2024-03", "no such feature")


def test_the_guide_names_the_pythons_that_are_tested_and_the_modules_that_are_public() -> None:
    """The Pythons of the metadata are those of ``.ci/run``; the modules are those of the list."""
    config = configparser.ConfigParser()
    config.read(README.with_name("setup.cfg"), encoding="utf-8")
    pythons = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    run = README.with_name(".ci").joinpath("run").read_text(encoding="utf-8")
    tried = re.findall(r"^ *(?:as_told|lane|differs) \w+ (3\.\d+)", run, re.MULTILINE)
    assert pythons == sorted({*tried})
    assert config["options"]["python_requires"] == f">={pythons[0]}"
    supported = " ".join(section_of("compatibility", "What is supported").split())
    assert f"Python {', '.join(pythons[:-1])} and {pythons[-1]}; ComfyUI" in supported
    assert all(version in supported for version in (*TESTED[-2:], *BY_HAND))
    assert supported.count(comfy_api_proxy.PACKAGE.replace("==", " ")) == 2
    assert f"{real_manager.PACKAGE.replace('==', ' ')} with either page" in supported
    promised = section_of("compatibility", "What stays as it is")
    named = re.findall(r"``(comfy_client(?:\.\w+)?)``", promised)
    assert named == list(MODULES)
    assert f"``tests/{LIST.name}``" in promised


def test_docstrings_say_since_when_as_the_package_knows_it() -> None:
    """Each route that not all servers have stands in a docstring, with the same words."""
    told: dict[str, set[str]] = {}
    for name in dir(ComfyApi):
        text = " ".join((inspect.getdoc(getattr(ComfyApi, name)) or "").split())
        named = re.findall(
            r"``([A-Z]+ /[^\s`]+)``(?:, since (ComfyUI [\d.]*\d|[A-Z][a-z]+ \d{4}))?", text
        )
        for route, since in named if not name.startswith("_") else ():
            told.setdefault(route, set()).add(since)
    known = {route: {since} for route, since in SINCE.items()}
    assert {route: since for route, since in told.items() if since != {""}} == known


@pytest.mark.parametrize(
    ("method", "route", "has_it"),
    [
        ("GET", "/api/jobs", "ComfyUI 0.6 or newer"),
        ("GET", "/api/jobs/1-2", "ComfyUI 0.6 or newer"),
        ("POST", "/api/jobs/1-2/cancel", "ComfyUI 0.26 or newer"),
        ("GET", "/api/models", "ComfyUI of September 2024 or newer"),
        ("GET", "/models/loras", "ComfyUI of August 2024 or newer"),
        ("GET", "/api/experiment/models/loras", "ComfyUI of December 2024 or newer"),
        ("GET", "/experiment/models/preview/loras/0/a/b.pt", "ComfyUI of December 2024 or newer"),
        ("POST", "/userdata/a%2Fb/move/c", "ComfyUI of June 2024 or newer"),
        ("POST", "/userdata/a", "ComfyUI of January 2024 or newer"),
        ("GET", "/queue", None),
        ("POST", "/api/jobs", None),
        ("GET", "/no/such/models", None),
    ],
)
def test_routes_are_known_by_the_comfyui_that_has_them(
    method: str, route: str, has_it: str | None
) -> None:
    """By what was asked."""
    assert who_has(method, route) == has_it


@pytest.mark.parametrize("prefix", ["", "/comfy"])
@pytest.mark.parametrize("kind", [March2024, ComfyServer])
def test_an_error_says_which_comfyui_has_the_route(kind: type[ComfyServer], prefix: str) -> None:
    """Also where the server is below a path, or has no ``/api``."""
    options: dict[str, Any] = {} if kind is March2024 else {"version": "0.3.75"}
    with kind(prefix=prefix, **options) as server, ComfyApi(server.url) as api:
        with pytest.raises(NotSupported, match=r"ComfyUI 0\.6 or newer has it"):
            api.get_jobs()
        with pytest.raises(NotSupported, match=r"ComfyUI 0\.26 or newer has it"):
            api.cancel_job(str(uuid.uuid4()))
        if kind is March2024:
            with pytest.raises(NotSupported, match="ComfyUI of September 2024 or newer has it"):
                api.get_model_types()
            with pytest.raises(NotSupported, match=r"ComfyUI of August 2024 or newer has it"):
                api.get_logs()
        with pytest.raises(NotSupported) as caught:
            api.fetch_api("/no/such/route")
        assert "newer" not in str(caught.value)


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
