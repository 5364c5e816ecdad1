"""Pickles and copies of a client."""

from __future__ import annotations

import contextlib
import copy
import logging
import pickle
from typing import Any

import blinker
import pytest
import requests

from comfy_client import (
    AuthenticationError,
    BearerCredentials,
    ComfyApi,
    EnvCredentials,
    HeaderCredentials,
    QueryCredentials,
    State,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import Heard, Quick, until

pytestmark = pytest.mark.usefixtures("prompts_wait")


PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def test_a_pickle_carries_the_configuration() -> None:
    """Not the id, which no two clients may share."""
    api = Quick(
        "https://gpu.example/comfy",
        user="ann",
        timeout=(1.0, 2.0),
        verify=False,
        cert="client.pem",
        proxies={"https": "http://proxy:3128"},
        transport="poll",
        credentials=EnvCredentials("COMFYUI_TOKEN", kind="query", key="token"),
    )
    twin = pickle.loads(pickle.dumps(api))
    assert type(twin) is Quick
    assert twin.host == api.host
    assert twin.__reduce__() == api.__reduce__()
    assert twin.client_id != api.client_id
    assert twin.state is State.IDLE
    assert b"COMFYUI_TOKEN" in pickle.dumps(twin)
    api.close()
    twin.close()


@pytest.mark.parametrize(
    ("given", "lost"),
    [
        ({"credentials": ("ann", "s3cret")}, "credentials"),
        ({"proxies": {"http": "http://ann:s3cret@proxy:3128"}}, "proxies"),
        ({"headers": {"X-Tenant": "blue"}}, "headers"),
        ({"session": requests.Session(), "namespace": blinker.Namespace()}, "session, namespace"),
        ({"credentials": EnvCredentials("COMFYUI_TOKEN"), "proxies": {"http": None}}, None),
    ],
)
def test_settings_lost_by_a_pickle_are_warned_about_once(
    given: dict[str, Any], lost: str | None, caplog: pytest.LogCaptureFixture, refused: str
) -> None:
    """By name, where it is read; many results of one client may come."""
    data = pickle.dumps(ComfyApi(refused, **given))
    assert caplog.text == ""
    for _ in range(3):
        pickle.loads(data)
    assert [f"without its {lost}:" in record.getMessage() for record in caplog.records] == (
        [True] if lost else []
    )


@pytest.mark.parametrize(
    "how", [{"host": "http://ann:s3cret@127.0.0.1:{port}"}, {"credentials": ("ann", "s3cret")}]
)
def test_a_copy_of_a_client_is_another_one_with_the_same_configuration(how: dict[str, Any]) -> None:
    """Credentials, headers, namespace and all; but no id, which no two clients may share."""
    namespace, senders = blinker.Namespace(), []
    namespace.signal("connected").connect(lambda sender, **_: senders.append(sender), weak=False)
    with ComfyServer(credentials=("ann", "s3cret")) as server:
        host = how.get("host", server.url).format(port=server.port)
        rest = {name: value for name, value in how.items() if name != "host"}
        first = Quick(host, headers={"X-Tenant": "blue"}, namespace=namespace, **rest)
        with contextlib.closing(first), copy.copy(first) as twin:
            assert type(twin) is Quick
            assert twin.client_id != first.client_id
            assert twin.__reduce__() == first.__reduce__()
            assert server.handshakes[-1]["X-Tenant"] == "blue"
            until(lambda: twin in senders)  # of the namespace's signals
        assert "s3cret" not in repr(vars(first))


def test_a_deep_copy_of_a_result_keeps_the_very_client() -> None:
    """With its credentials and its connections."""
    with (
        ComfyServer(credentials=("ann", "s3cret")) as server,
        ComfyApi(server.url, credentials=("ann", "s3cret")) as api,
    ):
        result = copy.deepcopy(api.run(PICTURE))
        connections = server.connections
        assert result.images[0].bytes().startswith(b"\x89PNG")
        assert server.connections == connections
        assert copy.deepcopy(api) is api


@pytest.mark.parametrize(
    "given",
    [
        {"credentials": ("ann", "s3cret")},
        {"credentials": BearerCredentials("s3cret")},
        {"credentials": HeaderCredentials({"X-API-Key": "s3cret"})},
        {"credentials": QueryCredentials("token", "s3cret")},
        {"credentials": lambda: ("ann", "s3cret")},
        {"headers": {"X-API-Key": "s3cret"}},
        {"proxies": {"http": "http://ann:s3cret@proxy:3128"}},
        {"host": "http://ann:s3cret@127.0.0.1:{port}"},
        {"session": "with cookie"},
    ],
    ids=["basic", "bearer", "header", "query", "callable", "headers", "proxy", "host", "session"],
)
def test_secrets_are_in_no_pickle_repr_or_log(
    comfy: ComfyServer, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Searched for in the bytes, after use, and after a refusal."""
    caplog.set_level(logging.DEBUG)
    host = given.pop("host", comfy.url).format(port=comfy.port)
    if "session" in given:
        given["session"] = requests.Session()
        given["session"].cookies.set("sid", "s3cret", domain="127.0.0.1")
    shown = []
    with contextlib.closing(Quick(host, **given)) as api:
        heard = Heard(api)
        api.init()
        comfy.faults.refuse_sockets(401)
        comfy.on("GET", "/prompt", (401, {}, None))
        comfy.faults.drop()
        until(lambda: heard("auth_error") and heard("reconnecting"))
        with pytest.raises(AuthenticationError) as info:
            api.poll_status()
        shown += [str(info.value), repr(info.value), repr(api), repr(vars(api)), api.host]
        shown += [repr(event) for event in heard.events]
        shown.append(pickle.dumps(api).decode("latin-1"))
        answer = api.fetch_api("/queue")
        assert pickle.loads(pickle.dumps(answer)) == answer
        shown.append(pickle.dumps(answer).decode("latin-1"))
        shown.append(pickle.dumps(info.value).decode("latin-1"))
        with (
            contextlib.closing(pickle.loads(pickle.dumps(api))) as twin,
            pytest.raises(AuthenticationError) as info,
        ):
            twin.poll_status()
        shown += [str(info.value)]
    shown.append(caplog.text)
    for text in shown:
        for secret in ("s3cret", "YW5uOnMzY3JldA"):
            assert secret not in text
    if isinstance(given.get("session"), requests.Session):
        given["session"].close()
