"""How long ``map`` and ``sweep`` wait for a server that is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client.batch.outage import Outage, got_nothing
from comfy_client.errors import ApiError, ComfyError, JobTimeout, ServerUnreachable
from comfy_client.log_records import ServerLog
from comfy_client.timing import Timing
from comfy_client.transport.deadline import Deadline
from tests.helpers.patches import tell_time

GONE = ServerUnreachable("connection refused")


class World:
    """A server, and what a client notices of it; each question to it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answers = False
        self.outstanding: tuple[object, ...] = ()
        self.asked = 0
        self.link: int | None = None
        self.connection = SimpleNamespace(generation=1)
        self.http = SimpleNamespace(
            address=SimpleNamespace(http_url="http://gpu:8188"), silence=None
        )
        self.wake = SimpleNamespace(wait_stopped=lambda seconds: False)
        self.trouble: ComfyError | None = None
        self.log = ServerLog("http://gpu:8188")
        self.timing = Timing(retry=0.0, retry_cap=0.0)
        self.tracker = self
        self.error: ComfyError = GONE

    def routes(self) -> Any:
        return SimpleNamespace(poll_status=lambda timeout: self.ask())

    def ask(self) -> str:
        self.now += 1.0
        self.asked += 1
        if not self.answers:
            raise self.error
        return "answered"

    def outage(self, patience: float | None) -> Outage:
        return Outage(self, patience)  # type: ignore[arg-type]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    tell_time(monkeypatch, lambda: made.now)
    return made


def send(world: World, outage: Outage, ask: Callable[[], str] | None = None) -> str:
    """Send a prompt, as long as it takes."""
    return outage.patiently(ask or world.ask, got_nothing, Deadline(), _never, None)


def look_until_it_raises(outage: Outage) -> None:
    for _ in range(99):
        outage.look()


def _never(exc: ComfyError) -> ComfyError:
    raise AssertionError("it has no deadline")


def test_a_prompt_that_is_not_sent_ends_when_patience_does(world) -> None:
    """And says since when the server was away, and why."""
    with pytest.raises(ServerUnreachable, match=r"gpu:8188 has been away for 5 s .*refused") as at:
        send(world, world.outage(5.0))
    assert world.asked == 6
    assert at.value.retryable
    assert at.value.__cause__ is GONE


@pytest.mark.parametrize("begins", ["unsent", "under way"])
def test_prompts_under_way_and_those_that_are_not_sent_share_one_outage(world, begins) -> None:
    """Whichever notices first."""
    outage = world.outage(5.0)
    world.trouble = GONE

    def three_times() -> str:
        if world.asked == 3:
            raise LookupError("something else")
        return world.ask()

    if begins == "unsent":
        with pytest.raises(LookupError):
            send(world, outage, three_times)
    else:
        for _ in range(3):
            outage.look()
    assert outage.seconds == 2.0
    world.outstanding = (object(),)
    with pytest.raises(ServerUnreachable, match="away for 5 s") as caught:
        look_until_it_raises(outage)
    assert not caught.value.retryable  # the prompt under way may run yet


@pytest.mark.parametrize("shows", ["answer", "socket", "brief socket"])
def test_each_outage_has_its_own_time(world, shows) -> None:
    """As soon as anything shows that the server was there, however briefly."""
    outage = world.outage(5.0)
    world.trouble = GONE
    for _ in range(20):
        for _ in range(4):
            outage.look()
        assert outage.seconds == 3.0
        if shows == "answer":
            world.answers = True
            assert send(world, outage) == "answered"
            world.answers = False
        elif shows == "socket":
            world.link = 1
            outage.look()
            assert outage.seconds == 0.0
            world.link = None
        else:  # nobody looked while it was connected
            world.connection.generation += 1
    with pytest.raises(ServerUnreachable):
        look_until_it_raises(outage)


def test_no_patience_ends_with_the_first_failure(world) -> None:
    """0 is no None."""
    with pytest.raises(ServerUnreachable):
        send(world, world.outage(0.0))
    assert world.asked == 1


def test_an_outage_without_a_limit_waits_for_ever(world) -> None:
    """Until it is back."""
    outage = world.outage(None)

    def at_last() -> str:
        world.answers = world.asked == 999
        return world.ask()

    assert send(world, outage, at_last) == "answered"
    assert outage.seconds == 0.0


@pytest.mark.parametrize("trouble", [None, ApiError("no", status=401), GONE])
def test_a_server_that_answers_is_not_away(world, trouble) -> None:
    """What failed before may have been a moment; and with a socket, HTTP may be slow."""
    world.trouble = trouble
    world.answers = True
    outage = world.outage(0.0)
    outage.look()
    world.link, world.answers = 1, False
    outage.look()
    world.link, world.answers, world.error = None, False, ApiError("no", status=401)
    outage.look()
    assert outage.seconds == 0.0
    assert world.asked == 2 * (trouble is GONE)


def test_a_questions_timeout_may_end_before_its_outage(world) -> None:
    """Then it is its own error, and the outage goes on."""
    outage = world.outage(5.0)

    def late(exc: ComfyError) -> ComfyError:
        return JobTimeout(f"too late: {exc}", prompt_id="p")

    def asks() -> Iterator[str]:
        for seconds in (0.0, 0.0, 3.0):
            deadline = Deadline.after(seconds)
            yield outage.patiently(world.ask, got_nothing, deadline, late, None)

    with pytest.raises(JobTimeout, match="too late: connection refused"):
        list(asks())
    with pytest.raises(JobTimeout):
        list(asks())
    assert outage.seconds == 1.0
    with pytest.raises(ServerUnreachable):
        send(world, outage)


@pytest.mark.parametrize("is_back", [False, True])
def test_the_search_for_a_submission_without_an_answer_counts(world, is_back) -> None:
    """Unless the server is there after all."""
    outage = world.outage(5.0)
    world.answers = is_back
    world.outstanding = (object(),)
    outage.begin_before(10.0)
    if is_back:
        outage.look()
        assert outage.seconds == 0.0
    else:
        with pytest.raises(ServerUnreachable, match="away for 11 s"):
            outage.look()
    world.link = 1
    outage.look()
    outage.begin_before(10.0)
    assert outage.seconds == 0.0
