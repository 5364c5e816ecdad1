"""Which servers get the key of partner nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import click
import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.cli.exits import remember
from comfy_client.cli.extra_data import prompt_options
from comfy_client.cli.main import main
from comfy_client.cli.workflow_source import LazyServer
from comfy_client.hosted.servers import CLOUD

KEY = "comfyui-0123456789-secret"
WORKFLOW = Workflow({"1": {"class_type": "Paid", "inputs": {}}})


class Known(LazyServer):
    """A stand-in for servers with known definitions and several clients."""

    def __init__(self, hidden: object, *clients: ComfyApi) -> None:
        super().__init__(lambda: clients[0])
        self._definitions = {"Paid": {"input": {"hidden": {"key": hidden}}}}
        self._clients = list(clients)

    def clients(self) -> list[ComfyApi]:
        return self._clients

    def node_definitions(self, classes=None, *, refresh=False):
        return self._definitions


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[ExitStack]:
    monkeypatch.setenv("COMFY_API_KEY", KEY)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("COMFY_BASE_URL", raising=False)
    with ExitStack() as entered, click.Context(main):
        yield entered


@pytest.mark.parametrize(
    ("hosts", "is_sent"),
    [
        (["http://127.0.0.1:8188"], True),
        (["https://studio.example.org"], True),
        (["http://gpu-box:8188"], False),
        (["http://127.0.0.1:8188", "http://gpu-box:8188"], False),
    ],
)
def test_the_key_goes_only_over_encrypted_connections_or_within_the_machine(
    stack, capsys, hosts, is_sent
):
    clients = [stack.enter_context(closing(ComfyApi(host))) for host in hosts]
    for host in hosts:
        remember(host, {}, is_hosted=False, takes_partner_key=True)
    options = prompt_options({}, WORKFLOW, Known("API_KEY_COMFY_ORG", *clients))
    assert options["comfy_api_key"] == (KEY if is_sent else None)
    said = capsys.readouterr().err
    assert ("COMFY_API_KEY is not sent" in said) is not is_sent
    assert KEY not in said


@pytest.mark.parametrize("base_url", [None, "https://mine.example"])
@pytest.mark.parametrize(
    "hosts",
    [
        ["http://127.0.0.1:8188"],
        ["https://stranger.example"],
        ["https://mine.example", "https://stranger.example"],
    ],
)
def test_a_server_that_says_that_a_node_takes_the_key_does_not_get_it(
    stack, capsys, monkeypatch, hosts, base_url
):
    """The user names servers for it; one of this machine may be a tunnel to a stranger's."""
    if base_url is not None:
        monkeypatch.setenv("COMFY_BASE_URL", base_url)
    clients = [stack.enter_context(closing(ComfyApi(host))) for host in hosts]
    options = prompt_options({}, WORKFLOW, Known("API_KEY_COMFY_ORG", *clients))
    assert options["comfy_api_key"] is None
    said = capsys.readouterr().err
    assert said.count("COMFY_API_KEY is not sent") == 1
    assert "--partner-key" in said
    assert KEY not in said


def test_the_server_of_the_key_gets_it(stack, monkeypatch):
    """That of COMFY_BASE_URL, or without it Comfy's own."""
    for host, named in (("https://mine.example", "https://mine.example/api/v2"), (CLOUD, " ")):
        monkeypatch.setenv("COMFY_BASE_URL", named)
        client = stack.enter_context(closing(ComfyApi(host)))
        options = prompt_options({}, WORKFLOW, Known("API_KEY_COMFY_ORG", client))
        assert options["comfy_api_key"] == KEY


def test_a_key_from_a_file_goes_wherever_the_user_sends_it(stack):
    client = stack.enter_context(closing(ComfyApi("http://gpu-box:8188")))
    given = {"api_key_comfy_org": "mine", "tag": 1}
    options = prompt_options(given, WORKFLOW, Known("API_KEY_COMFY_ORG", client))
    assert options["comfy_api_key"] == "mine"
    assert options["extra_data"]["tag"] == 1
    assert "mine" not in str(options["extra_data"])


@pytest.mark.parametrize("hidden", ["UNIQUE_ID", ["UNIQUE_ID"], None])
def test_the_key_stays_here_if_no_node_takes_it(stack, hidden):
    client = stack.enter_context(closing(ComfyApi("http://127.0.0.1:8188")))
    remember(client.host, {}, is_hosted=False, takes_partner_key=True)
    assert prompt_options({}, WORKFLOW, Known(hidden, client))["comfy_api_key"] is None
    v3 = Known(["API_KEY_COMFY_ORG"], client)
    assert prompt_options({}, WORKFLOW, v3)["comfy_api_key"] == KEY
