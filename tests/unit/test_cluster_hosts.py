"""Which worker of a cluster has which server."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from comfy_client import BearerCredentials, EnvCredentials
from comfy_client.distributed import ComfyPlugin
from comfy_client.distributed.notes import digest_of
from comfy_client.distributed.plugin import WorkerName, checked, host_for, least_taken
from comfy_client.workflow import Workflow

WORKER = WorkerName("gpu-cluster-7", "tcp://10.0.0.3:41111", "10.0.0.3")


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("http://gpu-{n}:8188", "http://gpu-7:8188"),
        ("http://{name}.lan:8188", "http://gpu-cluster-7.lan:8188"),
        ("http://{host}:8188", "http://10.0.0.3:8188"),
        ("http://one-for-all:8188", "http://one-for-all:8188"),
        ({"gpu-cluster-7": "http://a:1", "10.0.0.3": "http://b:1"}, "http://a:1"),
        ({"tcp://10.0.0.3:41111": "http://c:1"}, "http://c:1"),
        ({"10.0.0.3": "http://d:1"}, "http://d:1"),
    ],
)
def test_a_template_or_a_mapping_says_where_the_server_of_a_worker_is(hosts: Any, url: str) -> None:
    """By its name, its number, its address or its host."""
    assert host_for(checked(hosts), WORKER) == url


def test_workers_of_a_local_cluster_are_named_by_numbers() -> None:
    """As keys of a mapping, these may be numbers, too."""
    worker = WorkerName("1", "tcp://127.0.0.1:41111", "127.0.0.1")
    assert host_for(checked({0: "http://a:1", 1: "http://b:1"}), worker) == "http://b:1"  # type: ignore[dict-item]


@pytest.mark.parametrize("hosts", ["http://gpu-{n}:8188", {"other": "http://a:1"}])
def test_a_worker_without_a_server_is_named(hosts: Any) -> None:
    """One without a name is called by its address, which has numbers that mean nothing."""
    nameless = WorkerName("tcp://10.0.0.3:41111", "tcp://10.0.0.3:41111", "10.0.0.3")
    with pytest.raises(ValueError, match=r"tcp://10.0.0.3:41111"):
        host_for(checked(hosts), nameless)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([], "empty"),
        ({}, "empty"),
        ("http://gpu-{number}:8188", r"\{number\} is not one of \{n\}, \{name\}, \{host\}"),
        ("http://gpu-{n:8188", "template"),
        (["http://ann:s3cret@gpu:8188"], "EnvCredentials"),
        ("http://ann:s3cret@gpu-{n}:8188", "EnvCredentials"),
        ({"a": "http://ann:s3cret@gpu:8188"}, "EnvCredentials"),
        ("http://", "host"),
    ],
)
def test_hosts_that_make_no_sense_are_refused_before_they_are_sent(hosts: Any, words: str) -> None:
    """No message shows a password."""
    with pytest.raises(ValueError, match=words) as caught:
        ComfyPlugin(hosts)
    assert "s3cret" not in str(caught.value)


def test_hosts_that_are_no_urls_are_refused() -> None:
    for wrong in (8188, [8188]):
        with pytest.raises(TypeError, match=r"hosts must (be|have) URLs"):
            ComfyPlugin(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "credentials", [("ann", "s3cret"), BearerCredentials("s3cret"), {"http://a:1": "s3cret"}]
)
def test_credentials_that_hold_a_secret_are_refused(credentials: Any) -> None:
    """They would be pickled, and kept by the scheduler."""
    with pytest.raises(TypeError, match="EnvCredentials") as caught:
        ComfyPlugin(credentials=credentials)
    assert "s3cret" not in str(caught.value)


def test_a_pickle_of_the_plugin_has_the_name_of_the_variable_and_not_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPU_TOKEN", "s3cret")
    for credentials in (EnvCredentials("GPU_TOKEN"), {"gpu": EnvCredentials("GPU_TOKEN")}):
        data = pickle.dumps(ComfyPlugin("http://gpu-{n}:8188", credentials=credentials))
        assert b"GPU_TOKEN" in data
        assert b"s3cret" not in data
        assert pickle.dumps(pickle.loads(data)) == data


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), ("64 MiB", TypeError)])
def test_a_size_that_makes_no_sense_is_refused_before_it_is_sent(
    wrong: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="max_json must be a number of bytes"):
        ComfyPlugin(max_json=wrong)


def test_a_worker_takes_the_server_that_the_fewest_have() -> None:
    """The first of equal ones."""
    assert least_taken(["a", "b", "c"], []) == "a"
    assert least_taken(["a", "b", "c"], ["a", "c", "gone"]) == "b"
    assert least_taken(["a", "b"], ["a", "b", "b"]) == "a"


def test_a_digest_is_that_of_the_graph_and_the_inputs() -> None:
    """However the graph is given, and in whichever process."""
    workflow = Workflow.example()
    twin = pickle.loads(pickle.dumps(workflow))
    assert digest_of(workflow, None) == digest_of(twin, None) == digest_of(workflow.to_dict(), None)
    assert digest_of(workflow, {"KSampler.seed": 1}) != digest_of(workflow, {"KSampler.seed": 2})
    twin["KSampler"]["seed"] = 12345
    assert digest_of(workflow, None) != digest_of(twin, None)
    file = {("3", "image"): b"abc"}
    assert digest_of(workflow, file) == digest_of(workflow, dict(file)) != digest_of(workflow, None)
