"""Attributes that clients, pools and jobs lack are neither read nor set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import CloudApi, ComfyApi, ComfyPool, HostedApi, Job
from comfy_client.pool.pooled_job import PooledJob

CLASSES = [ComfyApi, HostedApi, CloudApi, ComfyPool, Job, PooledJob]


def misspelt(cls: type) -> Iterator[tuple[str, str]]:
    """Each long public name of a class, and the same with two letters swapped."""
    for name in dir(cls):
        wrong = f"{name[:3]}{name[4:5]}{name[3:4]}{name[5:]}"
        if len(name) > 6 and not name.startswith("_") and not hasattr(cls, wrong):
            yield wrong, name


@pytest.mark.parametrize("cls", CLASSES)
def test_no_misspelt_attribute_is_swallowed_and_the_nearest_is_named(cls: type) -> None:
    owner = object.__new__(cls)
    names = [*misspelt(cls)]
    assert names
    for wrong, name in names:
        with pytest.raises(AttributeError, match=rf"nearest: .*\b{name}\b") as setting:
            setattr(owner, wrong, 5)
        with pytest.raises(AttributeError) as reading:
            getattr(owner, wrong)
        assert str(setting.value) == str(reading.value)
        assert (setting.value.name, setting.value.obj) == (wrong, owner)
        assert not vars(owner)


@pytest.mark.parametrize("name", ["timeot", "timeout"])
@pytest.mark.parametrize("cls", CLASSES[:3])
def test_an_argument_of_the_client_is_no_attribute_of_it(cls: Any, name: str) -> None:
    """The error shows where it goes."""
    with pytest.raises(AttributeError, match=rf"{cls.__name__}\(timeout=\.\.\.\)"):
        setattr(object.__new__(cls), name, 5)


@pytest.mark.parametrize(
    ("cls", "name", "way"),
    [
        (Job, "images", "job.result().images"),
        (PooledJob, "wait", "job.result(timeout)"),
        (ComfyPool, "close", "pool.shutdown()"),
        (ComfyPool, "in_flight", "ComfyPool(in_flight=...)"),
        (HostedApi, "queuePrompt", "api.queue_prompt(...)"),
    ],
)
def test_a_name_of_another_library_is_answered_with_ours(cls: Any, name: str, way: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(object.__new__(cls), name)
    assert way in str(caught.value)


def test_declared_attributes_can_be_set() -> None:
    """Declared, public and private."""
    api = object.__new__(ComfyApi)
    for name in ("parts", "timing", "run", "_settings"):
        setattr(api, name, name)
        assert getattr(api, name) == name
    with pytest.raises(AttributeError, match=r"(setter|can't set)"):
        api.connected = True  # type: ignore[misc]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_subclass_of_a_program_may_have_attributes_of_its_own(cls: Any) -> None:
    class Mine(cls):  # type: ignore[misc]
        pass

    mine = object.__new__(Mine)
    mine.label = "red"
    assert mine.label == "red"
    with pytest.raises(AttributeError, match="'Mine' object has no attribute 'colour'"):
        mine.colour  # noqa: B018  # it raises
