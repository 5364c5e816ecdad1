"""The page that an embedded server serves: ``ComfyServer(frontend=...)``, and its settings."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client.testing import ComfyServer
from comfy_client.testing.versions import DEFAULT_VERSION, RELEASES
from tests.server.test_safety import asked

INDEX = b"<title>the page</title>"
PAGE = RELEASES[DEFAULT_VERSION].page


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages: a page, two packages of templates, and help."""
    files = {
        "comfyui_frontend_package/static/index.html": INDEX,
        "comfyui_frontend_package/static/assets/a.js": b"a",
        "comfyui_frontend_package/static/extensions/core/b.js": b"b",
        f"comfyui_frontend_package-{PAGE}.dist-info/METADATA": b"",
        "comfyui_workflow_templates_json/templates/index.json": b"[]",
        "comfyui_workflow_templates_media_image/templates/one-1.webp": b"webp",
        "comfyui_workflow_templates_media_image/secret.txt": b"a secret",
        "comfyui_embedded_docs/docs/KSampler/en.md": b"# KSampler",
    }
    for name, content in files.items():
        path = tmp_path / "site-packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    yield tmp_path / "site-packages"
    assert not [name for name in sys.modules if name.startswith("comfyui_")]


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_an_installed_page_is_served_where_it_is(installed: Path) -> None:
    """With its scripts, templates and help; nothing is written there."""
    before = state_of(installed)
    with ComfyServer(frontend=True) as server:
        for path, content in (
            ("/", INDEX),
            ("/assets/a.js", b"a"),
            ("/extensions/core/b.js", b"b"),
            ("/templates/index.json", b"[]"),
            ("/templates/one-1.webp", b"webp"),
            ("/docs/KSampler/en.md", b"# KSampler"),
        ):
            assert asked(server, path) == (200, content)
        assert json.loads(asked(server, "/extensions")[1]) == ["/extensions/core/b.js"]
        assert asked(server, "/assets/a.js", method="PUT", body=b"x")[0] == 405
        server.restart()
        assert asked(server, "/") == (200, INDEX)
    assert state_of(installed) == before


def test_files_outside_the_folders_of_a_page_are_refused(installed: Path) -> None:
    """Neither by dots nor by a link inside them."""
    secret = installed / "comfyui_workflow_templates_media_image" / "secret.txt"
    for folder in (
        installed / "comfyui_frontend_package/static/assets",
        installed / "comfyui_workflow_templates_json/templates",
        installed / "comfyui_embedded_docs/docs",
    ):
        (folder / "link.txt").symlink_to(secret)
    with ComfyServer(frontend=True) as server:
        for path in (
            *("/assets/link.txt", "/templates/link.txt", "/docs/link.txt"),
            *(
                "/templates/../secret.txt",
                "/templates/%2e%2e/secret.txt",
                "/templates/..%2fsecret.txt",
            ),
            *("/docs/%2e%2e/__init__.py", f"/templates/{secret}", "/templates/%00", "/templates/."),
        ):
            status, body = asked(server, path)
            assert status in (400, 403, 404), path
            assert b"secret" not in body


def test_a_folder_may_be_the_page(tmp_path: Path) -> None:
    """It may be a link; and such a page lacks templates, unless they are installed."""
    (tmp_path / "page").mkdir()
    (tmp_path / "page/index.html").write_bytes(INDEX)
    (tmp_path / "page/app.js").write_bytes(b"app")
    (tmp_path / "link").symlink_to(tmp_path / "page")
    for folder in (tmp_path / "page", str(tmp_path / "link")):
        with ComfyServer(frontend=folder, prefix="/comfy") as server:
            assert asked(server, "/comfy/") == (200, INDEX)
            assert asked(server, "/comfy/app.js") == (200, b"app")
            assert asked(server, "/comfy/docs/KSampler/en.md")[0] == 404


def test_a_page_of_another_release_is_a_warning(installed: Path) -> None:
    """Which says how to install the one that fits."""
    wanted = f"the page is {PAGE}, but ComfyUI 0.3.75 comes with 1.32.9: pip install comfyui-"
    with pytest.warns(UserWarning, match=re.escape(wanted)) as told:
        ComfyServer(frontend=True, version="0.3.75")
    assert told[0].filename == __file__
    ComfyServer(frontend=True)  # a warning would be an error


@pytest.mark.usefixtures("installed")
def test_without_a_page_an_error_says_how_to_install_it(installed: Path) -> None:
    (installed / "comfyui_frontend_package/static/index.html").unlink()
    with pytest.raises(ValueError, match=r"no page: .*static has no index\.html"):
        ComfyServer(frontend=True)
    sys.path.clear()
    wanted = f"pip install comfyui-frontend-package=={PAGE}"
    with pytest.raises(ModuleNotFoundError, match=re.escape(wanted)):
        ComfyServer(frontend=True)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"frontend": 5}, TypeError),
        ({"frontend": None}, TypeError),
        ({"frontend": "no such folder"}, ValueError),
        ({"settings": [("a", 1)]}, TypeError),
        ({"settings": {1: 2}}, TypeError),
    ],
    ids=str,
)
def test_wrong_options_of_a_page_are_one_clear_error(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"frontend must be|no page|settings must be"):
        ComfyServer(**options)


def test_users_begin_with_the_given_settings_and_may_change_them() -> None:
    with ComfyServer(settings={"Comfy.TutorialCompleted": True, "a": 1}) as server:
        assert json.loads(asked(server, "/settings/a")[1]) == 1
        assert asked(server, "/settings/a", method="POST", body=b"2")[0] == 200
        found = json.loads(asked(server, "/settings")[1])
        assert found == {"Comfy.TutorialCompleted": True, "a": 2}
