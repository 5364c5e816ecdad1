"""What a client believes about its hosted jobs, with answers and a clock of the test's own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import HostedApi, Job
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    NotFound,
    NotSupported,
    PaymentRequired,
    RequestTimeout,
    ServerUnreachable,
    Throttled,
    UnexpectedResponse,
)
from comfy_client.hosted.job_poller import MOST_STREAMS, HostedPoller, check_options
from comfy_client.hosted.models import HostedJob, HostedJobs, ServerEvent
from comfy_client.hosted.sending import Submission, label_of
from comfy_client.jobs.handle import JobHandle
from comfy_client.jobs.prompt import Prompt
from comfy_client.models import QueuedPrompt
from comfy_client.timing import Timing
from tests.helpers.clients import LIMIT, threads, until
from tests.helpers.interrupts import fail_next_start
from tests.helpers.patches import tell_time

GRAPH = {"9": {"class_type": "SaveImage", "inputs": {}}}
PATIENCE = 40.0
GONE = NotFound("gone", status=404)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


Answer = dict[str, Any] | Exception | str


class Scripted:
    """Answers questions about jobs in turn, the last answer again and again."""

    def __init__(self) -> None:
        self.answers: list[Answer] = ["queued"]
        self.cancelled: Answer = "canceling"
        self.graphs: dict[str, Any] = {}
        self.listed: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.cancels: list[str] = []
        self.opened: list[str] = []
        self.no_events: Exception = NotSupported("no streams", status=501)
        self.frames: list[ServerEvent] = []
        self.breaks = True

    def job(self, job_id: str, **_: Any) -> HostedJob:
        self.asked.append(job_id)
        return said(job_id, self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    def cancel(self, job_id: str, **_: Any) -> HostedJob:
        self.cancels.append(job_id)
        return said(job_id, self.cancelled)

    def workflow(self, job_id: str, **_: Any) -> Any:
        if job_id not in self.graphs:
            raise GONE
        return self.graphs[job_id]

    def jobs(self, **_: Any) -> HostedJobs:
        return HostedJobs.from_json({"jobs": self.listed})

    def events(self, job_id: str, **_: Any) -> Any:
        self.opened.append(job_id)
        if self.frames:
            frames = breaking(self.frames) if self.breaks else iter(self.frames)
            return contextlib.nullcontext(frames)
        raise self.no_events


def breaking(frames: list[ServerEvent]) -> Iterator[ServerEvent]:
    yield from frames
    raise ServerUnreachable("cut")


def said(job_id: str, answer: Answer) -> HostedJob:
    if isinstance(answer, Exception):
        raise answer
    facts = {"status": answer} if isinstance(answer, str) else answer
    return HostedJob.from_json({"id": job_id, **facts})


@attrs.define
class World:
    """A client whose poller asks scripted routes, when the test says so."""

    api: HostedApi
    routes: Scripted
    poller: HostedPoller
    clock: Clock

    def follow(self, prompt_id: str = "key", job_id: str = "job-1") -> tuple[Prompt, Job]:
        """A job that the server has accepted."""
        tracker = self.poller.tracker
        one = tracker.new(prompt_id, GRAPH)
        job = Job(JobHandle(one, self.api, self.poller))
        tracker.add(one, posting=True)
        tracker.accept(one, QueuedPrompt(job_id))
        tracker.answered(one)
        return one, job

    def ask(self, *answers: Answer, after: float = 0.0) -> None:
        """Ask about all jobs once for each answer, some seconds apart."""
        for answer in answers:
            self.routes.answers = [answer]
            known = self.poller.tracker.outstanding
            self.poller.ask(known, known)
            self.clock.now += after


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    api = HostedApi("http://127.0.0.1:9", namespace=blinker.Namespace())
    clock = Clock()
    tell_time(monkeypatch, clock.monotonic)
    routes: Any = Scripted()
    submission = Submission(
        routes, "text", remembers=False, search=None, name_of=lambda asset_id: None
    )
    poller = HostedPoller(api.parts.tracker, routes, submission, PATIENCE)
    yield World(api, routes, poller, clock)
    monkeypatch.undo()
    api.close()


def error(job: Job) -> BaseException | None:
    assert job.done()
    return job.exception(0)


# -- polling --------------------------------------------------------------------------------------


def test_a_job_waits_runs_and_succeeds(world) -> None:
    one, job = world.follow()
    world.ask({"status": "queued", "queue_position": 3})
    assert (job.status, one.state.ahead) == ("pending", 3)
    world.ask({"status": "running", "progress": {"current_node": "9", "step": 1, "steps": 4}})
    assert job.status == "running"
    output = {"node_id": "9", "name": "a.png", "type": "image"}
    world.ask({"status": "succeeded", "outputs": [output]})
    assert job.status == "succeeded"
    assert world.routes.asked == ["job-1"] * 3
    world.ask()
    assert job.prompt_id == "job-1"


def test_a_failed_hosted_job_ends_with_its_error(world) -> None:
    _, job = world.follow()
    world.ask({"status": "failed", "error": {"message": "boom", "node_id": "9"}})
    assert isinstance(error(job), JobFailed)


def test_a_404_right_after_the_201_is_no_loss(world) -> None:
    _, job = world.follow()
    world.ask(*[GONE] * 8, after=0.5)
    assert not job.done()
    world.ask("succeeded")
    assert job.status == "succeeded"


def test_a_404_that_stands_is_a_loss(world) -> None:
    _, job = world.follow()
    world.ask(*[GONE] * 12, after=Timing().hosted_new / 10)
    assert isinstance(error(job), JobLost)
    assert not error(job).retryable


def test_a_404_of_a_new_job_that_comes_late_is_no_loss(world, monkeypatch) -> None:
    """The server looked for it when it was asked, and knew it before the answer came."""
    _, job = world.follow()
    answer = world.routes.job

    def slowly(job_id: str, **_: Any) -> HostedJob:
        try:
            return answer(job_id)
        finally:
            world.clock.now += 0.4 * Timing().hosted_new

    monkeypatch.setattr(world.routes, "job", slowly)
    world.ask(GONE, GONE, GONE)
    assert not job.done()
    world.ask("succeeded")
    assert job.status == "succeeded"


def test_a_false_expired_is_no_end(world) -> None:
    _, job = world.follow()
    world.ask("running", *["expired"] * 20, after=Timing().hosted_gone / 30)
    assert not job.done()
    world.ask("succeeded")
    assert job.status == "succeeded"


def test_an_expired_that_stands_is_a_loss(world) -> None:
    _, job = world.follow()
    world.ask("running", *["expired"] * 4, after=1.0)
    assert isinstance(error(job), JobLost)


def test_three_refusals_in_a_row_end_the_wait_in_the_servers_words(world) -> None:
    _, job = world.follow()
    refusal = AuthenticationError("who?", status=401)
    world.ask("queued", refusal, refusal, "queued", refusal, refusal)
    assert not job.done()
    world.ask(refusal)
    assert isinstance(error(job), AuthenticationError)


def test_too_few_credits_end_it_too(world) -> None:
    _, job = world.follow()
    world.ask(*[PaymentRequired("no", status=402)] * 3)
    assert isinstance(error(job), PaymentRequired)


@pytest.mark.parametrize(
    "trouble",
    [
        ServerUnreachable("nobody"),
        RequestTimeout("late"),
        ApiError("gateway", status=502),
        UnexpectedResponse("a page", status=200),
        Throttled("busy", status=429),
    ],
)
def test_no_usable_answer_is_borne_for_as_long_as_patience(world, trouble) -> None:
    _, job = world.follow()
    world.ask("running", *[trouble] * 40, after=PATIENCE / 40)
    assert not job.done()
    assert world.poller.trouble is not None
    world.ask("running")
    assert world.poller.trouble is None
    world.ask(*[trouble] * 42, after=PATIENCE / 40)
    assert type(error(job)) is type(trouble)


def test_a_server_that_says_how_long_is_left_alone_for_so_long(world) -> None:
    one, _ = world.follow()
    world.ask(Throttled("busy", status=429, retry_after=7.0))
    assert one.state.check_at - world.clock.now == 7.0
    world.ask(Throttled("busy", status=429, retry_after=1e9))
    assert one.state.check_at - world.clock.now == 30.0


def test_while_the_server_is_away_one_question_is_for_all_jobs(world) -> None:
    for number in range(3):
        world.follow(f"key-{number}", f"job-{number}")
    world.ask(ServerUnreachable("nobody"))
    assert len(world.routes.asked) == 1


@pytest.mark.parametrize(
    "error",
    [
        ApiError("no", status=500),
        AuthenticationError("no", status=401),
        PaymentRequired("no", status=402),
    ],
)
def test_a_refusal_for_one_job_does_not_stop_the_others(world, error) -> None:
    world.follow("one", "job-1")
    world.follow("two", "job-2")
    world.ask(error)
    assert sorted(world.routes.asked) == ["job-1", "job-2"]


def test_a_closed_client_asks_no_more(world) -> None:
    world.follow("a", "job-a")
    world.follow("b", "job-b")
    world.ask(ClientClosed())
    assert len(world.routes.asked) == 1


def test_a_bug_counts_as_no_usable_answer(world) -> None:
    _, job = world.follow()
    world.poller.give_up(KeyError("x"))
    assert not job.done()
    world.clock.now += PATIENCE
    world.poller.give_up(KeyError("x"))
    assert type(error(job)) is ComfyError


def test_the_graph_of_a_foreign_job_is_read_if_the_server_has_it(world) -> None:
    tracker = world.poller.tracker
    for job_id in ("known", "unknown"):
        one = tracker.new(job_id, {})
        tracker.add(one)
        one.state.attach(world.clock.now, None, None)
        world.routes.graphs["known"] = GRAPH
    world.ask("running")
    graphs = {one.state.prompt_id: one.state.graph for one in tracker.outstanding}
    assert graphs == {"known": GRAPH, "unknown": {}}


def test_a_submission_without_an_answer_is_found_by_its_key(world) -> None:
    """Ctrl-C came before the answer."""
    tracker = world.poller.tracker
    one = tracker.new("key", GRAPH)
    job = Job(JobHandle(one, world.api, world.poller))
    tracker.add(one, posting=True)
    one.state.may_have_arrived(world.clock.now)
    tracker.answered(one)
    world.ask(GONE)
    assert job.prompt_id == "key"
    world.routes.listed = [{"id": "job-1", "status": "queued", "metadata": label_of("key", "text")}]
    world.ask(GONE)
    assert job.prompt_id == "job-1"
    world.ask("succeeded")
    assert job.status == "succeeded"


# -- cancel ---------------------------------------------------------------------------------------


@pytest.fixture
def passing(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let pauses pass, with these answers meanwhile, one each half second; then the last."""

    def script(*answers: Answer) -> None:
        left = list(answers)
        due = [world.clock.now]

        def sleep(seconds: float) -> None:
            world.clock.now += seconds
            if world.clock.now >= due[0]:
                due[0] += 0.5
                world.ask(left.pop(0) if len(left) > 1 else left[0])

        tell_time(monkeypatch, sleep, "sleep")  # type: ignore[arg-type]

    return script


def cancel(world: World, one: Prompt) -> bool:
    return world.poller.cancel(one, force=False)


def test_a_running_job_that_ends_was_cancelled(world, passing) -> None:
    one, job = world.follow()
    world.ask("running")
    passing("canceling", "running", "canceled")
    assert cancel(world, one)
    assert isinstance(error(job), JobInterrupted)


def test_a_waiting_job_that_expires_was_cancelled(world, passing) -> None:
    one, job = world.follow()
    world.ask("queued")
    world.routes.cancelled = "expired"
    passing("expired")
    assert cancel(world, one)
    assert isinstance(error(job), JobInterrupted)


def test_a_waiting_job_that_goes_on_waiting_was_not(world, passing) -> None:
    """ComfyUI before 0.26 has no route to cancel it, and the proxy says nothing."""
    one, job = world.follow()
    world.ask("queued")
    world.routes.cancelled = "queued"
    passing("queued")
    with pytest.raises(NotSupported, match=r"before 0\.26"):
        cancel(world, one)
    assert not job.done()
    world.ask("running", *["expired"] * 4, after=1.0)
    assert isinstance(error(job), JobLost)  # not interrupted by us


def test_a_running_job_that_goes_on_by_its_steps_was_not(world, passing) -> None:
    one, job = world.follow()
    world.ask("running")
    passing(
        *(
            {"status": "running", "progress": {"current_node": "9", "step": n, "steps": 99}}
            for n in range(60)
        )
    )
    with pytest.raises(NotSupported, match="goes on"):
        cancel(world, one)
    assert not job.done()


def test_a_running_job_without_signs_of_life_may_still_end(world, passing) -> None:
    one, _ = world.follow()
    world.ask("running")
    passing("canceling")
    with pytest.raises(JobTimeout) as caught:
        cancel(world, one)
    assert caught.value.prompt_id == "job-1"


def test_a_job_that_succeeds_all_the_same_was_not_cancelled(world, passing) -> None:
    one, job = world.follow()
    world.ask("running")
    passing("succeeded")
    assert not cancel(world, one)
    assert job.status == "succeeded"


@pytest.mark.parametrize("answer", ["succeeded", "failed", GONE])
def test_an_ended_or_unknown_job_is_not_cancelled(world, answer) -> None:
    one, _ = world.follow()
    world.routes.cancelled = answer
    assert not cancel(world, one)
    assert world.routes.cancels == ["job-1"]


@pytest.mark.parametrize("answer", [GONE, "failed", "succeeded"])
def test_a_job_that_was_not_cancelled_and_is_gone_is_lost(world, answer) -> None:
    """Nobody knows how it ended."""
    one, job = world.follow()
    world.ask("running")
    world.routes.cancelled = answer
    assert not cancel(world, one)
    world.ask(*["expired"] * 4, after=1.0)
    assert isinstance(error(job), JobLost)


def test_closing_the_client_ends_the_wait_for_the_end(world, passing) -> None:
    one, _ = world.follow()
    world.ask("running")
    passing("running")
    world.poller.tracker.wake.set(stop=True)
    with pytest.raises(ClientClosed):
        cancel(world, one)


def test_a_job_that_another_thread_is_submitting_is_cancelled_once_it_is_known(
    world, monkeypatch
) -> None:
    tracker = world.poller.tracker
    one = tracker.new("key", GRAPH)
    tracker.add(one, posting=True)
    one.state.may_have_arrived(world.clock.now)
    world.routes.answers = [GONE]
    world.routes.cancelled = "canceled"

    def sleep(seconds: float) -> None:
        world.clock.now += seconds
        if tracker.is_posting(one):
            world.routes.listed = [{"id": "j", "status": "x", "metadata": label_of("key", "text")}]
            tracker.answered(one)
        else:
            world.ask("canceled")

    tell_time(monkeypatch, sleep, "sleep")  # type: ignore[arg-type]
    assert cancel(world, one)
    assert world.routes.cancels == ["j"]


# -- streams --------------------------------------------------------------------------------------


def ask_again(world: World, after: float) -> int:
    """Let time pass and ask; return how often a stream was opened by then."""
    world.clock.now += after
    world.ask("running")
    until(lambda: not [one for one in threads() if one.name == "comfy-stream"])
    return len(world.routes.opened)


def test_short_jobs_end_without_a_stream(world) -> None:
    world.follow()
    assert ask_again(world, 0.1) == 0
    assert ask_again(world, 0.1) == 1


def test_a_job_that_was_attached_gets_a_stream_once_the_server_knows_it(world) -> None:
    """By its id, so that its key is not looked for any more."""
    tracker = world.poller.tracker
    one = tracker.new("job-1", GRAPH)
    tracker.add(one)
    one.state.attach(world.clock.now, None, None)
    assert ask_again(world, 1.0) == 0
    assert ask_again(world, 1.0) == 1


def test_a_server_without_streams_is_not_asked_for_one_again(world) -> None:
    world.follow()
    assert [ask_again(world, after) for after in (1.0, 60.0, 600.0)] == [1, 1, 1]


def test_a_server_with_too_many_streams_is_left_alone(world) -> None:
    world.routes.no_events = Throttled("too many", status=429, retry_after=30.0)
    world.follow()
    assert [ask_again(world, after) for after in (1.0, 29.0, 2.0)] == [1, 1, 2]
    world.routes.no_events = Throttled("too many", status=429)
    assert [ask_again(world, after) for after in (31.0, 9.0, 2.0)] == [3, 3, 4]


def test_a_stream_that_breaks_is_opened_again_after_a_pause(world) -> None:
    world.routes.no_events = ServerUnreachable("nobody")
    world.follow()
    assert [ask_again(world, after) for after in (1.0, 11.0)] == [1, 2]


@pytest.mark.parametrize("breaks", [True, False])
def test_a_stream_that_breaks_or_ends_before_its_job_is_opened_again(world, breaks) -> None:
    world.routes.breaks = breaks
    world.routes.frames = [ServerEvent("status", {"status": "running"})]
    world.follow()
    assert [ask_again(world, after) for after in (1.0, 11.0)] == [1, 2]


def test_files_repeated_after_a_broken_stream_are_published_once(world) -> None:
    """The next stream repeats them."""
    one, _ = world.follow()
    first, second = (
        ServerEvent("output", {"node_id": "9", "type": "image", "name": name}) for name in "ab"
    )
    world.routes.frames = [first]
    assert ask_again(world, 1.0) == 1
    world.routes.frames = [first, second, ServerEvent("status", {"status": "running"})]
    assert ask_again(world, 11.0) == 2
    [files] = one.state.outputs["9"].values()
    assert [file["filename"] for file in files] == ["a", "b"]


def test_a_defect_in_a_stream_is_logged_and_polling_goes_on(world, caplog) -> None:
    world.routes.no_events = KeyError("a defect")
    _, job = world.follow()
    with caplog.at_level("DEBUG", "comfy_client"):
        ask_again(world, 1.0)
    assert "KeyError: 'a defect'" in caplog.text
    world.ask("succeeded")
    assert job.status == "succeeded"


def test_a_machine_without_threads_has_jobs_without_streams(world, monkeypatch) -> None:
    _, job = world.follow()
    fail_next_start(monkeypatch, RuntimeError("can't start new thread"), "comfy-stream")
    assert ask_again(world, 1.0) == 0
    assert ask_again(world, 11.0) == 1
    world.ask("succeeded")
    assert job.status == "succeeded"


# -- taking back ----------------------------------------------------------------------------------


def test_jobs_that_wait_are_cancelled_and_those_that_run_are_left_alone(world) -> None:
    _, waiting = world.follow("a", "job-a")
    _, running = world.follow("b", "job-b")
    world.routes.answers = ["queued", "expired", "running"]
    assert world.poller.delete_pending(["job-a", "job-b"])
    assert world.routes.cancels == ["job-a"]
    world.routes.answers = ["expired"]
    world.ask(*["expired"] * 8, after=1.0)
    assert isinstance(error(waiting), JobInterrupted)
    assert isinstance(error(running), JobLost)


def test_jobs_that_stay_in_the_queue_are_logged(world, caplog) -> None:
    world.follow()
    world.routes.answers = ["queued"]
    assert not world.poller.delete_pending(["job-1"])
    assert "stay in the queue: job-1" in caplog.text


def test_delete_pending_of_an_unknown_job_succeeds(world) -> None:
    world.routes.answers = [GONE]
    assert world.poller.delete_pending(["unknown"])


def test_a_submission_that_may_be_on_its_way_is_not_taken_back(world) -> None:
    tracker = world.poller.tracker
    one = tracker.new("key", GRAPH)
    tracker.add(one, posting=True)
    one.state.may_have_arrived(world.clock.now)
    world.routes.answers = [GONE]
    assert not world.poller.delete_pending(["key"])
    assert world.routes.cancels == []


def test_without_an_answer_jobs_may_stay(world, caplog) -> None:
    world.follow()
    world.routes.answers = [ServerUnreachable("nobody")]
    assert not world.poller.delete_pending(["job-1"])
    assert "may stay in the queue" in caplog.text


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"front": True}, "front"),
        ({"number": 3}, "number"),
        ({"extra_data": {"preview_method": "taesd"}}, "preview_method"),
        ({"extra_data": {"extra_pnginfo": {}}}, r"takes no extra_data\['extra_pnginfo'\]"),
    ],
)
def test_unsupported_options_are_refused_before_anything_is_sent(body, names) -> None:
    with pytest.raises(NotSupported, match=names):
        check_options(body)


def test_unneeded_options_are_left_out() -> None:
    check_options({"extra_data": {"preview_method": "auto", "api_key_comfy_org": "k"}})


def test_a_job_that_waits_says_that_its_server_answers(world: World) -> None:
    """Old news are no sign of a server that is away, unless it does not answer either."""
    _, job = world.follow()
    world.ask({"status": "queued", "queue_position": 3}, after=50.0)
    world.ask({"status": "queued", "queue_position": 3}, after=0.5)
    assert job.why() == (
        "pending, 3 ahead; running: another prompt; last news 50.5 s ago by HTTP, "
        "the server answered 0.5 s ago"
    )
    world.ask(RequestTimeout("silence"))
    assert job.why().endswith("by HTTP; the server does not answer (silence)")


def test_a_job_that_was_attached_is_pending_once_the_server_says_that_it_waits(world) -> None:
    """With or without its place."""
    one, job = world.follow()
    one.state.attached = True
    assert job.status == "unknown"
    world.ask("queued")
    assert job.status == "pending"


class Held:
    """A stream that brings its frames when the first gate opens, and ends with the second."""

    def __init__(self, *frames: ServerEvent) -> None:
        self.begin, self.over = threading.Event(), threading.Event()
        self.opened: list[str] = []
        self._frames = frames

    def events(self, job_id: str, **_: Any) -> Any:
        self.opened.append(job_id)
        return contextlib.nullcontext(self._follow())

    def _follow(self) -> Iterator[ServerEvent]:
        self.begin.wait(10 * LIMIT)
        yield from self._frames
        self.over.wait(10 * LIMIT)

    def end(self) -> None:
        self.begin.set()
        self.over.set()
        until(lambda: not [one for one in threads() if one.name == "comfy-stream"])


def test_no_more_streams_are_open_at_a_time_than_six(world, monkeypatch) -> None:
    """However often the jobs are asked about."""
    held = Held()
    monkeypatch.setattr(world.routes, "events", held.events)
    for number in range(8):
        world.follow(f"key-{number}", f"job-{number}")
    for _ in range(3):
        world.clock.now += 1.0
        world.ask("running")
    until(lambda: len(held.opened) >= MOST_STREAMS)
    held.end()
    assert len(held.opened) == MOST_STREAMS


def test_stream_events_do_not_postpone_polling(world, monkeypatch) -> None:
    """A stream may stop without a word, and then only a question finds the end."""
    held = Held(ServerEvent("progress", {"current_node": "9", "step": 1, "steps": 2}))
    monkeypatch.setattr(world.routes, "events", held.events)
    one, _ = world.follow()
    world.clock.now += 1.0
    world.ask("running")
    due = one.state.check_at
    held.begin.set()
    try:
        until(lambda: one.state.node == "9" and one.state.check_at <= due)
    finally:
        held.end()
