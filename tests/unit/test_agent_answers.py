"""What agents read: thumbnails and texts of bounded size."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from comfy_client.errors import JobFailed, JobTimeout, PromptRejected, SubmitUncertain, Throttled
from comfy_client.mcp.answers import (
    MARK,
    MOST_BYTES,
    MOST_FILES,
    MOST_PROBLEMS,
    MOST_TEXT,
    THUMBNAIL_CHARACTERS,
    THUMBNAIL_SIDE,
    CallRefused,
    ToolAnswer,
    error_answer,
    finished,
    problems_of,
    status_of,
    thumbnail,
    whole,
)
from comfy_client.mcp.runs import costs_money
from comfy_client.redaction import Sealed
from comfy_client.transport.response import Download
from comfy_client.workflow.problems import Problem


class InMemory:
    """A stand-in for an output."""

    filename = "a.png"
    media = "image"
    node_id = "9"
    url = None

    def __init__(self, content: bytes, times: int = 1, length: int | None = None) -> None:
        self._content = content
        self._times = times
        self._length = length
        self.given = 0

    @contextlib.contextmanager
    def stream(self, timeout: float | None = None) -> Iterator[Download]:
        yield Download(200, {}, self._length, self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        for _ in range(self._times):
            self.given += 1
            yield self._content


class Made:
    """A stand-in for a result."""

    def __init__(self, files: list[Any], texts: tuple[str, ...] = ()) -> None:
        self.files = files
        self.images: list[Any] = []
        self.texts = texts
        self.seeds = {"3": 7}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def noise(side: int) -> Image.Image:
    return Image.frombytes("RGB", (side, side), random.Random(1).randbytes(3 * side * side))


def test_a_thumbnail_of_noise_is_small_enough() -> None:
    """It compresses worst of all."""
    made = thumbnail(InMemory(png(noise(1000))), 1)  # type: ignore[arg-type]
    assert made is not None
    assert len(base64.b64encode(made.content)) <= THUMBNAIL_CHARACTERS
    with Image.open(io.BytesIO(made.content)) as small:
        assert max(small.size) <= THUMBNAIL_SIDE


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1"])
def test_pictures_of_all_kinds_have_a_thumbnail(mode: str) -> None:
    """A small one is not enlarged."""
    made = thumbnail(InMemory(png(Image.new(mode, (30, 20)))), 1)  # type: ignore[arg-type]
    assert made is not None
    with Image.open(io.BytesIO(made.content)) as small:
        assert small.size == (30, 20)


def test_a_broken_or_huge_picture_has_none() -> None:
    """Its link stays."""
    assert thumbnail(InMemory(b"no picture"), 1) is None  # type: ignore[arg-type]
    huge = InMemory(bytes(MOST_BYTES // 4 + 1), times=4)
    assert thumbnail(huge, 1) is None  # type: ignore[arg-type]


def test_a_content_that_is_said_to_be_too_large_is_not_read() -> None:
    """Not even its beginning."""
    huge = InMemory(b"x", length=MOST_BYTES + 1)
    with pytest.raises(CallRefused, match="more than"):
        whole(huge)  # type: ignore[arg-type]  # has the part of an Output that is used
    assert huge.given == 0


def test_many_files_and_long_texts_are_cut() -> None:
    """The answer says how many there are."""
    made = Made([InMemory(b"")] * (MOST_FILES + 7), ("x" * 10_000,))
    answer = finished("p", made, 1)  # type: ignore[arg-type]
    assert len(answer.links) == MOST_FILES
    assert answer.facts["data"]["more_files"] == 7
    assert [len(one) for one in answer.facts["data"]["texts"]] == [MOST_TEXT]


def test_many_problems_are_counted() -> None:
    """The first ones are told."""
    problems = (Problem("error", "unknown", "m" * 9000),) * (MOST_PROBLEMS + 3)
    said = problems_of(problems)
    assert len(said) == MOST_PROBLEMS + 1
    assert said[-1] == {"text": "and 3 more"}
    assert len(json.dumps(said)) < 20_000


def test_secrets_in_facts_are_hidden_and_data_is_marked() -> None:
    """By the name of a value, or as it is sealed."""
    facts = {"data": {"api_key": "sk-1", "value": Sealed("sk-2"), "seed": 7}}
    assert json.loads(ToolAnswer(facts).text) == {
        "data": {"api_key": "***", "value": "***", "seed": 7},
        "data_is": MARK,
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PromptRejected("no"), "rejected"),
        (Throttled("later"), "not_sent"),
        (SubmitUncertain("?", prompt_id="p"), "unknown"),
        (JobFailed("failed", prompt_id="p"), "failed"),
    ],
)
def test_each_error_says_how_the_run_stands_and_what_to_do(error: Any, status: str) -> None:
    """Its code is the one that the library has for it."""
    assert status_of(error) == status
    answer = error_answer(error, prompt_id="p")
    assert answer.is_error
    assert answer.facts["code"] == error.code
    assert answer.facts["next"]


def test_a_run_that_goes_on_is_to_be_waited_for() -> None:
    """As one whose output is read before its end."""
    answer = error_answer(JobTimeout("not yet", prompt_id="p"))
    assert "call job" in answer.facts["next"]


@pytest.mark.parametrize(
    ("definition", "costs"),
    [
        (None, False),
        ({"input": None}, False),
        ({"api_node": False, "input": {"hidden": {"prompt": "PROMPT"}}}, False),
        ({"api_node": True}, True),
        ({"input": {"hidden": {"key": "API_KEY_COMFY_ORG"}}}, True),
        ({"input": {"hidden": {"key": ["AUTH_TOKEN_COMFY_ORG"]}}}, True),
    ],
)
def test_nodes_that_cost_money_are_told_by_their_definition(definition: Any, costs: bool) -> None:
    """Or by the key that they take."""
    assert costs_money(definition) is costs
