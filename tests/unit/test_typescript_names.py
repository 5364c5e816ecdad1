"""Names of the TypeScript clients answer with the Python way, and nothing else changes by it."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import comfy_client
from comfy_client import ComfyApi, ComfyPool, Job, Result, Workflow
from comfy_client.typescript import CLIENT, MANAGER, MONITOR, PACKAGE, POOL
from tests.guide import text_of


@pytest.fixture
def api() -> Iterator[ComfyApi]:
    api = ComfyApi()
    yield api
    api.close()


#: Methods of the reference whose names are those of Python, but for their case.
SAME = (
    *("appendPrompt", "clearHistory", "createUser", "deleteUserData", "fetchApi", "freeMemory"),
    *("generateId", "getCheckpoints", "getEmbeddings", "getExtensions", "getFeatures"),
    *("getHistories", "getHistory", "getImage", "getLoras", "getModelFiles", "getModelFolders"),
    *("getModelPreview", "getModelTypes", "getModels", "getPathImage", "getQueue"),
    *("getSamplerInfo", "getSetting", "getSettings", "getSystemStats", "getUserConfig"),
    *("getUserData", "getViewMetadata", "getWorkflowTemplates", "listUserData"),
    *("moveUserData", "pollStatus", "queuePrompt", "storeSetting", "storeSettings"),
    *("storeUserData", "uploadImage", "uploadMask"),
)


@pytest.mark.parametrize("name", SAME)
def test_a_method_in_camel_case_answers_with_its_name_in_snake_case(
    api: ComfyApi, name: str
) -> None:
    snake = re.sub("([A-Z])", r"_\1", name).lower()
    with pytest.raises(AttributeError) as caught:
        getattr(api, name)
    assert str(caught.value) == (
        f"'ComfyApi' object has no attribute {name!r}; the Python way: api.{snake}(...)"
    )
    assert (caught.value.name, caught.value.obj) == (name, api)


@pytest.mark.parametrize("name", CLIENT)
def test_a_member_without_a_counterpart_answers_in_one_line(api: ComfyApi, name: str) -> None:
    assert not hasattr(ComfyApi, name)
    assert not hasattr(api, name)
    with pytest.raises(AttributeError, match=re.escape(f"; the Python way: {CLIENT[name]}")):
        getattr(api, name)
    assert "\n" not in CLIENT[name]


@pytest.mark.parametrize("name", POOL)
def test_a_member_of_a_pool_answers_in_one_line(name: str) -> None:
    pool = ComfyPool(["gpu-box"])
    assert not hasattr(ComfyPool, name)
    assert not hasattr(pool, name)
    with pytest.raises(AttributeError, match=re.escape(f"; the Python way: {POOL[name]}")):
        getattr(pool, name)
    with pytest.raises(AttributeError, match=r"^'ComfyPool' object has no attribute 'no_such'$"):
        pool.no_such  # noqa: B018  # it raises
    assert "\n" not in POOL[name]


@pytest.mark.parametrize("name", PACKAGE)
def test_a_name_of_the_package_answers_in_one_line(name: str) -> None:
    """However it is asked for."""
    assert not hasattr(comfy_client, name)
    way = re.escape(f"'comfy_client' has no attribute {name!r}; the Python way: {PACKAGE[name]}")
    with pytest.raises(AttributeError, match=way):
        getattr(comfy_client, name)
    with pytest.raises(ImportError, match=way):
        exec(f"from comfy_client import {name}")
    assert "\n" not in PACKAGE[name]


@pytest.mark.parametrize("text", [*PACKAGE.values(), *CLIENT.values(), *POOL.values()])
def test_python_names_in_the_typescript_table_exist(text: str) -> None:
    """Each ``api.name``, ``job.name`` and class."""
    owners = {
        "api": ComfyApi,
        "job": Job,
        "pool": ComfyPool,
        "result": Result,
        "workflow": Workflow,
    }
    for owner, name in re.findall(r"\b(api|job|pool|result|workflow)\.(\w+)", text):
        if name != "json":
            assert name in {*dir(owners[owner]), *getattr(owners[owner], "__slots__", ())}, name
    for name in re.findall(r"\b(Graph|Template|Workflow|Job\w*|Prompt\w+|ComfyApi)\b", text):
        assert name in comfy_client.__all__ or name == "JobLost", name


def test_every_class_of_the_page_on_typescript_is_known() -> None:
    """What the guide has a line for."""
    named = set(re.findall(r"^``([A-Z][A-Za-z]+)``  ", text_of("typescript"), re.MULTILINE))
    assert named
    assert named <= {*PACKAGE, *comfy_client.__all__}


def test_each_member_of_the_extensions_of_the_reference_has_a_test() -> None:
    """The tests that the tables name exist; all members stand in them."""
    rows = re.findall(r"^``(\w+)`` .*``(test_\w+)``$", text_of("typescript"), re.MULTILINE)
    monitor, manager = rows[:8], rows[8:]
    for module, found, names in (("monitor", monitor, MONITOR), ("manager", manager, MANAGER)):
        assert {name for name, _ in found} - SAME_NAME == {*names} - NOT_OF_THE_REFERENCE
        source = Path(__file__).parents[1].joinpath(f"behaviour/test_{module}.py").read_text()
        assert [test for _, test in found if f"def {test}(" not in source] == []


#: Members whose names need no hint, as they are those of Python but for their case.
SAME_NAME = {"installModel"}
#: Names of the tables of hints that no table of the page has.
NOT_OF_THE_REFERENCE = {"destroy", "isSupported", "off", "updateAllExtensions"}


@pytest.mark.parametrize("name", ["no_such_thing", "noSuchThing", "_private", "__deepcopy_it__"])
def test_any_other_name_answers_as_ever(api: ComfyApi, name: str) -> None:
    for owner, what in ((api, "'ComfyApi' object"), (comfy_client, "module 'comfy_client'")):
        assert not hasattr(owner, name)
        with pytest.raises(AttributeError, match=f"^{what} has no attribute {name!r}$"):
            getattr(owner, name)
    with pytest.raises(ImportError, match=f"^cannot import name {name!r}"):
        exec(f"from comfy_client import {name}")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("get_histroy", "api.get_history"),
        ("getQeue", "api.get_queue"),
        ("history", "api.get_history"),
        ("upload", "api.upload_image"),
    ],
)
def test_a_misspelt_or_shortened_name_of_a_client_answers_with_the_nearest(
    api: ComfyApi, name: str, near: str
) -> None:
    with pytest.raises(AttributeError, match=f"attribute {name!r}; nearest: .*{near}"):
        getattr(api, name)


def test_a_subclass_is_named_in_the_attribute_error() -> None:
    class Mine(ComfyApi):
        @property
        def broken(self) -> int:
            return [].no_such_thing  # type: ignore[attr-defined]

    api = Mine()
    with pytest.raises(AttributeError, match="'Mine' object has no attribute 'queuePrompt'"):
        api.queuePrompt  # noqa: B018  # it raises
    with pytest.raises(AttributeError, match="'list' object has no attribute"):
        api.broken  # noqa: B018  # what a property raises is not hidden
    api.close()


def test_special_names_asked_by_copy_and_pickle_are_plain_attribute_errors(api: ComfyApi) -> None:
    """Copies, pickles, mocks, ``inspect`` and ``help``."""
    copied = copy.copy(api)
    assert copied.host == api.host
    assert copy.deepcopy(api) is api
    unpickled = pickle.loads(pickle.dumps(api))
    assert unpickled.host == api.host
    assert not hasattr(object.__new__(ComfyApi), "anything")
    double = mock.create_autospec(ComfyApi, instance=True)
    with pytest.raises(AttributeError):
        double.queuePrompt  # noqa: B018  # it raises
    assert inspect.signature(double.queue_prompt)
    members = dict(inspect.getmembers(api))
    assert "queuePrompt" not in members
    assert "queuePrompt" not in dir(api)
    assert inspect.unwrap(api) is api  # type: ignore[arg-type]
    for other in (copied, unpickled):
        other.close()
