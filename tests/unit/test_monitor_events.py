"""The event ``monitor``: what Crystools said, and what stands in for what it did not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import GpuUsage, MonitorEvent
from comfy_client.event_queue import kind_of
from comfy_client.events import FROM_SERVER
from tests.helpers.hostile_values import JSON

RECORDING = Path(__file__).parents[1] / "recordings" / "crystools" / "monitor.jsonl"
NOTHING = {
    "gpu_utilization": -1,
    "gpu_temperature": -1,
    "vram_total": -1,
    "vram_used": -1,
    "vram_used_percent": -1,
}
BUSY = {
    "gpu_utilization": 93,
    "gpu_temperature": 61,
    "vram_total": 2**34,
    "vram_used": 2**33,
    "vram_used_percent": 50.0,
}


def event(data: Any) -> MonitorEvent:
    made = FROM_SERVER["crystools.monitor"](data)
    assert isinstance(made, MonitorEvent)
    return made


def recorded() -> list[MonitorEvent]:
    rows = map(json.loads, RECORDING.read_text(encoding="utf-8").splitlines())
    return [event(row["msg"]["data"]) for row in rows if row["kind"] == "json"]


def test_figures_of_crystools_are_bytes_and_percent() -> None:
    """With the names of the event, whatever the pack calls them."""
    first = recorded()[0]
    assert first.to_dict() == {
        "name": "monitor",
        "is_end": False,
        "cpu_utilization": 100.0,
        "ram_total": 25276059648,
        "ram_used": 11298893824,
        "ram_used_percent": 44.7,
        "disk_total": 270553174016,
        "disk_used": 20852248576,
        "disk_used_percent": 21.8,
        "device_type": "cpu",
        "gpus": [],
    }


def test_figures_that_are_switched_off_are_none() -> None:
    """Crystools sends -1 for them, which no program should add up."""
    [off, *_] = [one for one in recorded() if one.cpu_utilization is None]
    figures = [v for k, v in off.to_dict().items() if k not in ("name", "is_end", "device_type")]
    assert figures == [None] * 7 + [[]]


def test_a_gpu_of_which_nothing_is_known_is_left_out_and_the_others_keep_their_numbers() -> None:
    some = {**NOTHING, "gpu_temperature": 0}
    found = event({"gpus": [BUSY, NOTHING, some, None, "gpu"]}).gpus
    assert [gpu.index for gpu in found] == [0, 2]
    assert found[0].to_dict() == {
        "index": 0,
        "utilization": 93,
        "temperature": 61,
        "vram_total": 2**34,
        "vram_used": 2**33,
        "vram_used_percent": 50.0,
    }
    assert (found[1].temperature, found[1].utilization) == (0, None)
    assert repr(found[1]) == (
        "GpuUsage(index=2, utilization=None, temperature=0, vram_total=None, vram_used=None, "
        "vram_used_percent=None)"
    )


def test_the_number_of_gpus_is_bounded() -> None:
    assert len(event({"gpus": [BUSY] * 100_000}).gpus) == 64


@given(st.dictionaries(st.sampled_from([*recorded()[0].raw]), JSON), st.lists(JSON, max_size=3))
def test_any_figures_are_numbers_from_0_on_or_none(data: dict[str, Any], gpus: list[Any]) -> None:
    """Whatever a server sends."""
    spoilt = [{**BUSY, name: value} for name in BUSY for value in gpus]
    for found in (event(data), event({**data, "gpus": [*gpus, *spoilt]})):
        figures = [attrs.asdict(found, recurse=False), *map(attrs.asdict, found.gpus)]
        for name, value in ((n, v) for each in figures for n, v in each.items()):
            if name in ("name", "raw", "nbytes", "gpus"):
                continue
            if name == "device_type":
                assert value is None or (isinstance(value, str) and len(value) <= 256)
            elif value is not None:
                assert type(value) in (int, float)
                assert 0 <= value < float("inf")
        assert all(isinstance(gpu, GpuUsage) for gpu in found.gpus)
        json.dumps(found.to_dict(), allow_nan=False)


def test_only_the_newest_figures_wait_for_a_slow_receiver() -> None:
    assert kind_of(event({})) == kind_of(event({"cpu_utilization": 5})) == "monitor"
