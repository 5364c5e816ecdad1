"""The queue of the embedded server, and its history."""

from __future__ import annotations

from typing import Any

from comfy_client.testing.prompt_queue import Item, PromptQueue


def item(prompt_id: str, graph: dict[str, Any]) -> Item:
    return 0.0, prompt_id, graph, {}, [], {}


def test_the_history_keeps_ten_thousand_prompts_and_one() -> None:
    """The oldest goes when there are more, as in ComfyUI."""
    queue = PromptQueue(lambda: None)
    for number in range(10_003):
        queue.settle(str(number), {})
    assert list(queue.history()) == [str(number) for number in range(2, 10_003)]


def test_a_running_prompt_is_shown_as_it_was_sent() -> None:
    """Whatever the executor does to its copy."""
    queue = PromptQueue(lambda: None)
    queue.put(item("one", {"1": {"inputs": {"seed": 1}}}))
    taken = queue.get()
    assert taken is not None
    taken[2]["1"]["inputs"]["seed"] = 2
    assert queue.shown()["queue_running"][0][2] == {"1": {"inputs": {"seed": 1}}}
    queue.done({})
    assert queue.entry("one")["one"]["prompt"][2] == {"1": {"inputs": {"seed": 1}}}


def test_a_prompt_starts_before_anybody_sees_that_it_runs() -> None:
    """So that an interrupt of a prompt that is seen to run is not lost."""
    queue = PromptQueue(lambda: None)
    queue.put(item("one", {}))
    seen: list[str | None] = []
    queue.get(lambda: seen.append(queue.running_id))
    assert (seen, queue.running_id) == ([None], "one")
