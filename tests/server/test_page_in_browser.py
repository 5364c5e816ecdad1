"""ComfyUI's own page on an embedded server, in Chromium: run with ``--browser``.

It needs the extra ``[frontend]``, and ``chromium`` on PATH.
"""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from collections.abc import Iterator

import pytest

from comfy_client import Workflow
from comfy_client.testing import ComfyServer
from comfy_client.testing.versions import RELEASES
from tests.helpers.browser import Browser, browser

pytestmark = pytest.mark.browser
#: Panels of the side bar, and a word that each shows on a new server.
PANELS = {"Assets": "512x512", "Node Library": "image", "Model Library": "checkpoints"}
#: The name of the picture that the page has been told of; previews have none.
PICTURE = (
    "Object.values(app.nodeOutputs).flatMap(one => one.images ?? [])"
    ".map(one => one.filename).find(Boolean)"
)
PANEL = "document.querySelector('.side-bar-panel')"


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    """Of the version that comes with the installed page, or else the newest."""
    page = importlib.metadata.version("comfyui-frontend-package")
    fitting = [one for one, release in RELEASES.items() if release.page == page]
    version = (fitting or [*RELEASES])[-1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the page is")
        server = ComfyServer(
            version=version,
            frontend=True,
            settings={"Comfy.TutorialCompleted": True},
            step_seconds=0.1,
        )
    with server:
        yield server


@pytest.fixture(scope="module")
def page(server: ComfyServer) -> Iterator[Browser]:
    """The page, with the example workflow, after a prompt that was queued by key."""
    graph = Workflow.example().to_json()
    kinds = ("progress", "b_preview", "b_preview_with_metadata")
    with browser() as tab:
        tab.open(server.url)
        tab.until("window.app?.graph && LiteGraph.registered_node_types.KSampler && true")
        tab.until("document.querySelector('.side-bar-button') && true")
        tab.value(f"app.loadApiJson({graph}, 'example')")
        tab.until(f"app.graph.nodes.length === {len(json.loads(graph))}")
        tab.value(
            f"window.seen = {{}}; for (const kind of {json.dumps(kinds)}) "
            "app.api.addEventListener(kind, () => { seen[kind] = 1 + (seen[kind] ?? 0) })"
        )
        tab.press_control_and_enter()
        tab.until(PICTURE)
        yield tab


def test_progress_previews_and_the_picture_arrive_in_the_page(
    server: ComfyServer, page: Browser
) -> None:
    seen = page.value("seen")
    assert seen["progress"] > 3
    assert seen.get("b_preview", 0) + seen.get("b_preview_with_metadata", 0) > 3
    assert (server.root / "output" / page.value(PICTURE)).is_file()
    assert [ran.status for ran in server.ran] == ["success"]


@pytest.mark.parametrize("name", PANELS)
def test_each_panel_of_the_side_bar_shows_what_the_server_has(page: Browser, name: str) -> None:
    button = f"document.querySelector('.side-bar-button[aria-label^=\"{name}\"]')"
    page.click(button)
    page.until(f"{PANEL}.innerText.includes({json.dumps(PANELS[name])})")
    if name == "Assets":  # the history
        page.until(f"[...{PANEL}.querySelectorAll('img')].some(one => one.naturalWidth === 512)")
    page.click(button)


def test_no_script_of_the_page_fails(server: ComfyServer, page: Browser) -> None:
    """What it asks for in vain are files that no new user has, as on a real server."""
    assert page.errors() == []
    paths = {
        url.removeprefix(server.url).partition("?")[0]
        for url, status in page.statuses()
        if status >= 400
    }
    assert {path for path in paths if not path.startswith(("/api/userdata", "/templates/"))} <= {
        "/user.css",
        "/favicon.ico",
    }
