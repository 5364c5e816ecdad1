"""ComfyUI-Manager 4 as a pack of the embedded server."""

from __future__ import annotations

import pytest

from comfy_client.testing import ComfyServer
from tests.helpers.bare import get


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("0.3.75", {"supports_csrf_post": True}),
        ("0.33", {"supports_v4": True, "supports_csrf_post": True}),
    ],
)
def test_features_say_less_of_manager_4_beside_an_old_comfyui(version: str, flags: object) -> None:
    with ComfyServer(version=version, packs=["manager4"]) as server:  # type: ignore[arg-type]
        assert get(server, "/features").json()["extension"]["manager"] == flags
        assert get(server, "/v2/manager/version").text == "V4.3"
        told = get(server, "/api/v2/manager/is_legacy_manager_ui").json()
        assert told == {"is_legacy_manager_ui": False}
