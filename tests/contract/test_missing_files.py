"""Whether the files of a result are still on the server, which may have it from its cache."""

from __future__ import annotations

import pytest

from comfy_client import AuthenticationError
from tests.contract.conftest import forgot
from tests.contract.test_runs import picture

LIMIT = 180.0


def test_a_file_that_was_deleted_is_missing(any_api, any_comfyui):
    """The cache names it all the same, until it is emptied."""
    graph = picture("missing/a", batch_size=3)
    first = any_api.run(graph, timeout=LIMIT)
    assert first.check_files() == []
    gone = first.images[1]
    (any_comfyui.root / "output" / gone.subfolder / gone.filename).unlink()
    again = any_api.run(graph, timeout=LIMIT)
    # A server that has forgotten the first ones saves others.
    missing = [] if forgot(any_comfyui, again, "1", "9") else [gone.filename]
    assert [one.filename for one in again.check_files(timeout=LIMIT)] == missing
    assert again["Save"].check_files() == again.check_files()
    assert not gone.exists()
    assert again.images[0].exists()


def test_a_file_that_is_not_there_is_no_error(api):
    """Unlike one that nobody may ask for."""
    assert not api.has_image({"filename": "no-such.png", "type": "output"})
    assert not api.has_image({"filename": "no-such.png", "subfolder": "nowhere", "type": "temp"})
    with pytest.raises(AuthenticationError, match="403"):
        api.has_image({"filename": "a.png", "subfolder": "../..", "type": "output"})


def test_a_picture_of_the_socket_is_never_missing(api, workflow):
    """It is in memory."""
    result = api.run(workflow("txt2img_websocket"), timeout=LIMIT)
    assert result.images
    assert result.check_files() == []
    with pytest.raises(ValueError, match="in memory"):
        api.has_image(result.images[0])
