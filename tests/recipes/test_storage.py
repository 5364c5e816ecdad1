"""The recipes that send results to S3: by a stand-in for boto3, and to a presigned URL.

With boto3 1.44 and moto 5.2, by hand: a picture, and 60 MiB in parts.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import requests

from comfy_client.testing import ComfyServer
from tests.guide import STAND_INS
from tests.helpers.receiver import receiving
from tests.recipes.conftest import Load

SECTION = "Results to S3"


@pytest.fixture(autouse=True)
def boto3(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in, without objects."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(STAND_INS)])
    module = importlib.import_module("boto3")
    module.objects.clear()
    return module


def test_a_result_is_an_object_whose_key_begins_with_the_prompt(
    comfy: ComfyServer, load: Load, boto3: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bytes are those of the server, and a link leads to it."""
    names = load(SECTION, which=0)
    [image] = names["result"].images
    [ran] = comfy.ran
    key = f"{ran.prompt_id}/0-{image.filename}"
    assert boto3.objects == {("pictures", key): (image.bytes(), "image/png")}
    assert key in capsys.readouterr().out


def test_a_presigned_url_gets_the_bytes_and_their_number(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which S3 must know before."""
    with receiving() as receiver:
        monkeypatch.setenv("UPLOAD_URL", f"{receiver.url}/put.png?X-Amz-Signature=1")
        names = load(SECTION)
        [request] = receiver.sent
        assert (request.method, request.path) == ("PUT", "/put.png?X-Amz-Signature=1")
        assert request.body == names["image"].bytes()
        receiver.statuses += [403]
        with pytest.raises(requests.HTTPError):
            names["put"](names["image"], f"{receiver.url}/put.png")
