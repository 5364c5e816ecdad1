"""Each status has its error."""

from __future__ import annotations

import copy
import copyreg
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    Conflict,
    NotFound,
    NotSupported,
    UploadTooLarge,
)
from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http
from tests.helpers.http import (
    HTML,
    PAGE,
    opened,
)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((401, {}, None), AuthenticationError, "wants credentials; pass credentials="),
        ((403, {}, None), AuthenticationError, "Origin differs from its Host"),
        ((403, {}, "Invalid directory"), AuthenticationError, "Invalid directory"),
        ((404, {}, None), NotFound, "not found"),
        ((404, {}, {"error": "Job not found"}), NotFound, "Job not found"),
        ((404, {}, "Directory not found"), NotFound, "Directory not found"),
        ((404, {"Content-Type": "application/octet-stream"}, None), NotSupported, "no such route"),
        ((405, {"Allow": "GET"}, "405: Method Not Allowed"), NotSupported, "no such route"),
        ((501, {}, None), NotSupported, "no such route"),
        ((409, {}, "File already exists"), Conflict, "File already exists"),
        ((400, {}, {"error": {"message": "bad\nprompt"}}), ApiError, "400: bad prompt"),
        ((418, HTML, PAGE), ApiError, "418"),
        ((500, {}, "500 Internal Server Error\n\nServer got itself in trouble"), ApiError, "log"),
        ((502, HTML, PAGE), ApiError, "when the server behind it does not answer"),
        ((599, {}, "odd"), ApiError, "599: odd"),
    ],
)
def test_each_status_has_its_error(comfy: ComfyServer, answer: Any, kind: Any, words: str) -> None:
    """With method, path, status and body; from any kind of call."""
    comfy.on("*", "/thing", answer)
    with opened(comfy.url) as http:
        calls: list[Callable[[], object]] = [
            lambda: http.json("POST", "/thing"),
            lambda: http.download("/thing").__enter__(),
            lambda: http.upload("/thing", {}, b"x", "a"),
        ]
        for call in calls:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind
            assert words in str(caught.value)
            assert "<" not in str(caught.value)
            assert caught.value.status == answer[0]
            assert caught.value.path == "/api/thing"
            assert pickle.loads(pickle.dumps(caught.value)).__dict__ == caught.value.__dict__


def test_allowed_statuses_come_back(comfy: ComfyServer, http: Http) -> None:
    """For callers that know better."""
    comfy.on("GET", "/thing", (404, {}, None))
    assert http.request("GET", "/thing", allow={404}).status == 404


ENTITY = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<hr>nginx/1.18.0"


@pytest.mark.parametrize(
    ("answer", "limit", "words"),
    [
        ((413, {}, "Maximum request body size 104857600 exceeded."), 104857600, "--max-upload"),
        ((413, {}, "Maximum request body size 1048576.0 exceeded."), 1048576, "--max-upload-size"),
        (
            (413, {}, "Maximum request body size 1024 exceeded, actual body size 4096"),
            1024,
            "--max-upload-size",
        ),
        ((413, HTML, ENTITY), None, "body limit of the proxy"),
        ((413, {}, None), None, "body limit of the proxy"),
    ],
)
def test_upload_too_large_has_size_and_limit(
    comfy: ComfyServer, http: Http, answer: Any, limit: int | None, words: str
) -> None:
    """ComfyUI's limit, or that of a proxy before it."""
    comfy.on("POST", "*", answer)
    for call in (
        lambda: http.upload("/upload/image", {}, bytes(5000), "a.png"),
        lambda: http.request("POST", "/prompt", data=bytes(5000)),
    ):
        with pytest.raises(UploadTooLarge, match=words) as caught:
            call()
        assert caught.value.limit == limit
        assert caught.value.size is not None
        assert 5000 <= caught.value.size < 6000


def test_a_copy_has_no_traceback_even_if_somebody_pickles_errors_with_theirs(monkeypatch):
    """As Dask does: a copy that is kept would hold the frames."""
    monkeypatch.setitem(copyreg.dispatch_table, NotFound, lambda exc: (lambda: exc, ()))
    with pytest.raises(NotFound) as caught:
        raise NotFound("no answer", method="GET", path="/", status=404, body=None)
    copied = copy.copy(caught.value)
    assert (type(copied), str(copied)) == (NotFound, "no answer")
    assert copied.__traceback__ is None
