"""The arguments of clients of Comfy API v2, and what the environment says instead."""

from __future__ import annotations

import copy
import os
import pickle
import warnings
from typing import Any

import pytest

from comfy_client import AuthenticationError, BasicCredentials, EnvCredentials
from comfy_client.hosted.api import CloudApi, HostedApi
from comfy_client.hosted.servers import CLOUD
from comfy_client.testing import ComfyServer

PROXY = "http://127.0.0.1:8189"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in os.environ:
        if name.startswith("COMFY"):
            monkeypatch.delenv(name)
    return monkeypatch


def sent_by(api: HostedApi) -> str | None:
    """Return the header with the key that a client sends."""
    held = api.parts.http.identity.credentials
    return None if held is None else held.headers().get("Authorization")  # type: ignore[union-attr]


def test_the_environment_names_the_server_and_the_key(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COMFY_BASE_URL", f"  {PROXY}/ \n")
    environment.setenv("COMFY_API_KEY", "key-1\n")
    with_all = HostedApi()
    assert with_all.host == PROXY
    assert sent_by(with_all) == "Bearer key-1"
    assert "COMFY_BASE_URL" in repr(with_all)
    assert "key-1" not in repr(with_all)
    environment.setenv("COMFY_BASE_URL", " ")
    assert HostedApi().host == CLOUD


def test_arguments_override_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COMFY_BASE_URL", "https://elsewhere.example")
    environment.setenv("COMFY_API_KEY", "key-1")
    with pytest.warns(UserWarning, match="for the server that COMFY_BASE_URL names"):
        assert HostedApi(f" {PROXY}\n").host == PROXY
    assert sent_by(HostedApi(PROXY, "key-2\r\n")) == "Bearer key-2"
    assert sent_by(HostedApi(PROXY, "")) is None
    environment.setenv("OTHER", "key-3")
    assert sent_by(HostedApi(PROXY, EnvCredentials("OTHER"))) == "Bearer key-3"


@pytest.mark.parametrize(
    ("named", "given", "is_sent"),
    [
        (None, CLOUD, True),
        (None, "https://mine.run.comfy.app", True),
        (None, PROXY, False),
        (None, "https://stranger.example", False),
        (None, "https://cloud.comfy.org.example", False),
        (None, "https://cloud.comfy.org:444", False),
        (PROXY, f"{PROXY}/api/v2", True),
        (PROXY, "http://127.0.0.1:8190", False),
        (PROXY, "https://mine.run.comfy.app", False),
        ("https://mine.example/a", "https://mine.example/b", True),
        ("ftp://what", PROXY, False),
    ],
)
def test_the_key_of_the_environment_goes_to_the_server_that_it_is_for(
    environment: pytest.MonkeyPatch, named: str | None, given: str, is_sent: bool
) -> None:
    """That of COMFY_BASE_URL, or without it Comfy's own; one warning where it does not go."""
    environment.setenv("COMFY_API_KEY", "key-1")
    if named is not None:
        environment.setenv("COMFY_BASE_URL", named)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert sent_by(HostedApi(given)) == ("Bearer key-1" if is_sent else None)
    assert [str(one.message).partition(":")[0] for one in said] == (
        [] if is_sent else ["COMFY_API_KEY is not sent to " + given.partition(":")[0]]
    )
    assert all(one.filename == __file__ for one in said)
    explicit = HostedApi(given, EnvCredentials("COMFY_API_KEY"))
    assert sent_by(explicit) == "Bearer key-1"


def test_cloud_needs_a_key() -> None:
    for make in (CloudApi, HostedApi, lambda: CloudApi(" \n")):
        with pytest.raises(AuthenticationError, match="COMFY_API_KEY"):
            make()
    assert CloudApi("key").host == CLOUD


@pytest.mark.parametrize("key", ["two words", "two\nlines", "schlüssel", "nul\0"])
def test_a_key_that_no_header_can_have_is_refused_and_not_repeated(
    key: str, environment: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="api_key is no key") as caught:
        HostedApi(PROXY, key)
    assert key not in str(caught.value)
    if "\0" not in key:
        environment.setenv("COMFY_API_KEY", key)
        with pytest.raises(ValueError, match="COMFY_API_KEY is no key"):
            CloudApi()


def test_a_login_in_the_url_is_refused_and_not_repeated(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="base_url has a login") as caught:
        HostedApi("http://ann:secret@127.0.0.1:8189")
    assert "secret" not in str(caught.value)
    environment.setenv("COMFY_BASE_URL", "https://ann:secret@gpu.example")
    with pytest.raises(ValueError, match="COMFY_BASE_URL has a login") as caught:
        HostedApi()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://gpu.example", "https://gpu.example/?token=x", "https://"])
def test_a_bad_url_is_named_by_its_source(url: str, environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^base_url: "):
        HostedApi(url)
    environment.setenv("COMFY_BASE_URL", url)
    with pytest.raises(ValueError, match=r"^COMFY_BASE_URL: "):
        HostedApi()


def test_a_key_goes_unencrypted_to_another_machine_only_if_allowed() -> None:
    with pytest.raises(ValueError, match="unencrypted"):
        HostedApi("http://gpu.example:8189", "key")
    HostedApi("http://gpu.example:8189")
    allowed = HostedApi("http://gpu.example:8189", "key", allow_insecure=True)
    assert sent_by(copy.copy(allowed)) == "Bearer key"


def test_credentials_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="bearer"):
        HostedApi(PROXY, EnvCredentials("X", "basic"))


def options() -> dict[str, Any]:
    return {
        "timeout": (1.0, 2.0),
        "patience": 7.0,
        "verify": False,
        "proxies": {"https": "http://proxy:3128"},
        "headers": {"X-Team": "a"},
        "search_v1": True,
    }


def test_a_copy_has_all_arguments_and_the_key() -> None:
    api = HostedApi("https://gpu.example/mount", "key", **options())
    twin = copy.copy(api)
    assert type(twin) is HostedApi
    assert twin.host == "https://gpu.example/mount"
    assert sent_by(twin) == "Bearer key"
    assert twin.__reduce__() == api.__reduce__()
    assert type(copy.copy(CloudApi("key"))) is CloudApi
    assert sent_by(copy.copy(HostedApi(PROXY, ""))) is None


def test_a_copy_without_a_key_stays_without(environment: pytest.MonkeyPatch) -> None:
    api = HostedApi(PROXY)
    environment.setenv("COMFY_API_KEY", "key-1")
    assert sent_by(copy.copy(api)) is None
    assert sent_by(pickle.loads(pickle.dumps(api))) is None


def test_a_pickle_has_no_key_and_reads_it_from_the_environment(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for api in (HostedApi("https://once.example", "key-1", **options()), CloudApi("key-1")):
        data = pickle.dumps(api)
        assert b"key-1" not in data
        twin = pickle.loads(data)
        assert type(twin) is type(api)
        assert twin.host == api.host
        with pytest.raises(AuthenticationError, match="COMFY_API_KEY is not set"):
            sent_by(twin)
        environment.setenv("COMFY_API_KEY", "key-2")
        if type(api) is HostedApi:
            with pytest.raises(AuthenticationError, match=r"not sent to https://once\.example"):
                sent_by(twin)
            environment.setenv("COMFY_BASE_URL", "https://once.example")
        assert sent_by(twin) == "Bearer key-2"
        assert sent_by(pickle.loads(pickle.dumps(twin))) == "Bearer key-2"
        environment.delenv("COMFY_API_KEY")
        environment.delenv("COMFY_BASE_URL", raising=False)
    assert "without its api_key, headers" in caplog.text


def test_a_key_from_the_environment_is_pickled_by_its_name(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("OTHER", "key-3")
    twin = pickle.loads(pickle.dumps(HostedApi(PROXY, EnvCredentials("OTHER"))))
    assert sent_by(twin) == "Bearer key-3"


def test_a_result_outlives_its_process_with_its_files(environment: pytest.MonkeyPatch) -> None:
    from tests.helpers.records import graph

    with ComfyServer(hosted="proxy", credentials="key-1") as server:
        with HostedApi(server.url, "key-1") as api:
            data = pickle.dumps(api.run(graph(), timeout=60))
        environment.setenv("COMFY_API_KEY", "key-1")
        environment.setenv("COMFY_BASE_URL", server.url)
        assert b"key-1" not in data
        assert pickle.loads(data).images[0].bytes().startswith(b"\x89PNG")


def test_a_token_of_a_file_may_end_with_its_line(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TOKEN", "abc\n")
    assert EnvCredentials("TOKEN").headers() == {"Authorization": "Bearer abc"}
    environment.setenv("LOGIN", "ann:pass ")
    assert EnvCredentials("LOGIN", "basic").headers() == BasicCredentials("ann", "pass ").headers()


def test_patience_is_a_number_of_seconds() -> None:
    with pytest.raises(ValueError, match="patience must be a number of seconds, 0 or more, not -1"):
        HostedApi("http://127.0.0.1:9", "", patience=-1)
    with pytest.raises(TypeError, match="patience must be a number of seconds, not None"):
        HostedApi("http://127.0.0.1:9", "", patience=None)  # type: ignore[arg-type]  # the mistake
