"""Every wait has an end, and one only: what refuses to tell, Ctrl-C in between, load."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import blinker
import pytest

from comfy_client import ApiError, AuthenticationError, ComfyApi, UnexpectedResponse
from comfy_client.errors import JobInterrupted, JobLost, ServerUnreachable
from comfy_client.jobs import cancel as cancelling
from comfy_client.jobs import submit as submission
from comfy_client.jobs.job import Job, state_of
from comfy_client.testing import ComfyServer
from comfy_client.timing import Timing
from comfy_client.transport.websocket import State
from tests.helpers.clients import outstanding, threads, until
from tests.helpers.interrupts import fail_next_start, in_time, interrupt_conditions

LIMIT = 60.0


class Impatient(ComfyApi):
    timing = Timing(pause=0.02, cap=0.2, poll=0.2)


class Gated:
    """Shows its text once it may."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    gate: threading.Event

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {}), "waits": ("BOOLEAN", {"default": False})}}

    def run(self, text: str, waits: bool) -> dict[str, Any]:
        from comfy_client.testing import check_interrupted

        while waits and not self.gate.wait(0.01):
            check_interrupted()
        return {"ui": {"text": [text]}}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens what waits."""
    Gated.gate = threading.Event()
    yield Gated.gate
    Gated.gate.set()


@pytest.fixture
def server(gate: threading.Event) -> Iterator[ComfyServer]:
    with ComfyServer() as server:
        server.add_node(Gated)
        yield server


def client(server: ComfyServer, cls: type[ComfyApi] = Impatient, **kw: Any) -> ComfyApi:
    return cls(server.url, namespace=blinker.Namespace(), **kw)


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with client(server) as api:
        yield api


def shows(text: str = "x", *, waits: bool = False) -> dict[str, Any]:
    return {"1": {"class_type": "Gated", "inputs": {"text": text, "waits": waits}}}


def heard_ends(api: ComfyApi) -> list[str]:
    """The prompts of all end events from now on."""
    found: list[str] = []
    api.on("all", lambda event: found.append(event.prompt_id) if event.is_end else None)
    return found


# -- a server that will not tell ---------------------------------------------------------


@pytest.mark.parametrize("status", [500, 404, 429])
def test_history_decides_although_the_queue_cannot_be_read(
    server: ComfyServer, status: int
) -> None:
    """What is in there has ended."""
    with (
        client(server, transport="poll") as api,
        server.faults.answer("GET", "/queue", (status, {}, "no")),
    ):
        assert api.run(shows(), timeout=LIMIT).texts == ("x",)


@pytest.mark.timing(silence_cap=0.2)
def test_a_server_that_only_stumbles_ends_a_wait_that_has_no_socket(server: ComfyServer) -> None:
    """In what it answered, after some tries."""
    with client(server, transport="poll") as api:
        job = api.submit(shows(waits=True))
        server.on("GET", "/queue", (500, {}, "no"))
        server.on("GET", "/history/*", (500, {}, "no"))
        assert isinstance(job.exception(LIMIT), ApiError)
        assert job.status == "unknown"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, {}, None), AuthenticationError),
        ((200, {"Content-Type": "text/html"}, "<form>"), UnexpectedResponse),
        ((200, {}, []), UnexpectedResponse),
        ((500, {}, "no"), ApiError),
    ],
    ids=["401", "login page", "unreadable", "500"],
)
@pytest.mark.timing(silence_cap=0.2)
def test_a_job_that_was_attached_ends_in_the_refusal(
    server: ComfyServer, api: ComfyApi, answer: Any, error: Any
) -> None:
    """Though a socket is there, on which nothing of it will come."""
    prompt_id = api.run(shows(), timeout=LIMIT).prompt_id
    with client(server) as other:
        until(lambda: other.connected)
        server.on("GET", "/history/*", answer)
        assert isinstance(other.job(prompt_id).exception(LIMIT), error)


def test_one_record_that_cannot_be_read_condemns_no_other_job(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of prompts that are attached while a good one runs."""
    with client(server, transport="poll") as api:
        good = api.submit(shows(waits=True))
        until(lambda: good.status == "running")
        read = api.get_history
        unreadable = {api.generate_id() for _ in range(4)}

        def get_history(prompt_id: str) -> Any:
            if prompt_id in unreadable:
                raise UnexpectedResponse("junk")
            return read(prompt_id)

        monkeypatch.setattr(api, "get_history", get_history)
        for prompt_id in unreadable:
            api._tracker.poll_all_soon()
            api.job(prompt_id)
            assert state_of(good).refusals == 0
        Gated.gate.set()
        assert good.result(LIMIT).texts == ("x",)


# -- one end, and the right one ----------------------------------------------------------


def test_taking_up_what_has_ended_tells_its_end_to_nobody_twice(
    server: ComfyServer, api: ComfyApi
) -> None:
    """Its own events() end all the same; another client is told once."""
    told = heard_ends(api)
    prompt_id = api.run(shows(), timeout=LIMIT).prompt_id
    for _ in range(2):
        job = api.job(prompt_id)
        assert [event.name for event in job.events()] == ["execution_success"]
        assert job.result(LIMIT).texts == ("x",)
    api._receivers.flush(5.0)
    assert told == [prompt_id]
    with client(server) as other:
        told = heard_ends(other)
        other.job(prompt_id).result(LIMIT)
        other.job(prompt_id).result(LIMIT)
        other._receivers.flush(5.0)
        assert told == [prompt_id]


def test_a_prompt_that_one_look_misses_is_not_lost(
    server: ComfyServer, gate: threading.Event
) -> None:
    """In neither queue nor history: only a second look, some time later, says so."""
    with client(server, transport="poll") as api:
        nothing = (200, {}, {"queue_running": [], "queue_pending": []})
        with server.faults.answer("GET", "/queue", nothing, times=1) as fault:
            job = api.submit(shows(waits=True))
            until(lambda: state_of(job).missed_at or job.done())
        assert fault.hits == 1
        gate.set()
        assert job.result(LIMIT).texts == ("x",)


def test_what_map_left_running_is_lost_and_not_cancelled_when_the_server_dies(
    server: ComfyServer, api: ComfyApi
) -> None:
    """Only what waited was taken back."""
    with contextlib.closing(api.map([shows("a"), shows("b", waits=True), shows("c")])) as results:
        next(results)
        until(lambda: any(job.status == "running" for job in outstanding(api)))
    [running] = [job for job in outstanding(api) if job.status == "running"]
    server.restart()
    assert isinstance(running.exception(LIMIT), JobLost)


def test_a_prompt_at_the_front_is_behind_what_runs(
    server: ComfyServer, api: ComfyApi, gate: threading.Event
) -> None:
    """And before all others, the last one first; as the queue says it."""
    first = api.submit(shows("0", waits=True))
    until(lambda: first.status == "running")
    waiting = [api.submit(shows(str(number))) for number in (1, 2)]
    front = [api.submit(shows(f"front {number}"), front=True) for number in (1, 2)]
    until(lambda: api._tracker.monitor.remaining == 5)
    places = [job.queue_position for job in (first, *front, *waiting)]
    until(lambda: [job.queue_position for job in (first, *front, *waiting)] == [0, 2, 1, 3, 4])
    assert places[0] == 0
    assert "1 ahead; running: Gated" in front[1].why()
    with client(server) as other:
        assert [other.job(job.prompt_id).queue_position for job in front] == [2, 1]
    gate.set()


def test_a_job_that_was_attached_does_not_make_up_its_progress(
    server: ComfyServer, api: ComfyApi, gate: threading.Event
) -> None:
    """Where it is, its own client is told; how long it ran, the history says."""
    with client(server) as other:
        job = api.submit(shows(waits=True))
        until(lambda: job.status == "running")
        taken = other.job(job.prompt_id)
        behind = api.submit(shows("y"))
        waits = other.job(behind.prompt_id)
        assert taken.why().startswith("running: at which node, another client is told; last news")
        assert "pending, 1 ahead; running: at which node" in waits.why()
        until(lambda: time.monotonic() - state_of(job).running_since > 0.5)
        gate.set()
        taken.result(LIMIT)
        entry = other.get_history(job.prompt_id)
        assert entry is not None
        assert taken.progress.elapsed == entry.ended - entry.started >= 0.5


def test_a_page_instead_of_the_answer_does_not_hide_a_prompt_that_runs(
    server: ComfyServer, api: ComfyApi
) -> None:
    """The right answer under a wrong kind counts; behind any other page it is looked for."""
    with server.faults.wrong_mime():
        assert api.run(shows("a"), timeout=LIMIT).texts == ("a",)

    def page(request: Any) -> Any:
        server.answer(request)
        return (200, {"Content-Type": "text/html"}, "<title>Checked by your firewall</title>")

    with server.faults.answer("POST", "/prompt", page):
        assert api.run(shows("b"), timeout=LIMIT).texts == ("b",)
    assert [ran.status for ran in server.ran] == ["success"] * 2
    with server.faults.login_page(), pytest.raises(UnexpectedResponse, match="login page"):
        api.run(shows("c"), timeout=LIMIT)


# -- Ctrl-C at bad moments ---------------------------------------------------------------


def test_a_job_whose_submission_ctrl_c_ended_goes_on_for_others(
    server: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has attached to it by its id."""
    post = submission.post_prompt
    prompt_id = api.generate_id()
    taken: list[Job] = []

    def interrupted(http: Any, body: Any, timeout: float | None = None) -> Any:
        taken.append(api.job(prompt_id))
        post(http, body, timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "post_prompt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.submit(shows(), prompt_id=prompt_id)
    assert taken[0].result(LIMIT).texts == ("x",)


@pytest.mark.timing(look_up=1.0)
def test_a_job_whose_submission_ctrl_c_kept_from_the_server_is_lost(
    api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it has had the time to get there."""
    prompt_id = api.generate_id()
    taken: list[Job] = []

    def interrupted(http: Any, body: Any, timeout: float | None = None) -> Any:
        taken.append(api.job(prompt_id))
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "post_prompt", interrupted)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        api.submit(shows(), prompt_id=prompt_id)
    assert isinstance(taken[0].exception(LIMIT), JobLost)
    assert time.monotonic() - start >= 1.0


def test_what_ctrl_c_kept_from_the_server_is_looked_for_now_and_then_and_cuts_no_socket(
    server: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real patience: that nothing shows on the socket does not make it deaf."""

    def interrupted(http: Any, body: Any, timeout: float | None = None) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(submission, "post_prompt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.submit(shows())
    [job] = outstanding(api)
    generation = api._connection.generation
    asked = counted(server, lambda: job.exception(LIMIT) and None)
    assert isinstance(job.exception(), JobLost)
    assert len(asked) < 60
    assert api._connection.generation == generation


def test_a_submission_that_ctrl_c_cut_off_is_found_by_its_mark_when_it_comes_late(
    server: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server that chooses its own ids, after a first look that missed it."""
    server.faults.other_prompt_ids()
    post = submission.post_prompt
    sent: list[Any] = []

    def interrupted(http: Any, body: Any, timeout: float | None = None) -> Any:
        sent.append((http, body))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(submission, "post_prompt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.submit(shows())
    [job] = outstanding(api)
    until(lambda: state_of(job).missed_at)
    theirs = post(*sent[0]).prompt_id
    assert job.result(LIMIT).texts == ("x",)
    assert job.prompt_id == theirs


def test_ctrl_c_in_the_bell_of_the_thread_that_asks_leaves_no_lock_held(
    api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever rings it, the thread is rung again."""
    with monkeypatch.context() as patch:
        interrupt_conditions(patch)
        with contextlib.suppress(KeyboardInterrupt):
            api._tracker.wake.set()
    in_time(api._tracker.wake.set)
    assert api.run(shows(), timeout=LIMIT).texts == ("x",)


def test_ctrl_c_while_init_waits_leaves_a_client_that_can_be_closed(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock of its pause is held."""
    server.on("GET", "/prompt", (503, {}, None))
    api = client(server)
    with monkeypatch.context() as patch:
        interrupt_conditions(patch)
        with contextlib.suppress(KeyboardInterrupt, ApiError):
            api.init(0.5)
    in_time(api.close)


def test_close_is_done_in_full_though_ctrl_c_come_in_between(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may be called again."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    for step in ("_connection.stop", "_tracker.close", "_receivers.close", "_http.close"):
        api = client(server)
        api.init()
        job = api.submit(shows(waits=True))
        part, _, method = step.partition(".")
        do = getattr(getattr(api, part), method)
        with monkeypatch.context() as patch:
            patch.setattr(getattr(api, part), method, interrupt)
            with pytest.raises(KeyboardInterrupt):
                api.close()
        assert api._closed
        if part != "_tracker":
            assert job.done()
        api.close()
        assert job.done()
        assert api.state is State.CLOSED
        do()


def test_ctrl_c_while_the_last_events_are_delivered_closes_the_client_all_the_same(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of a ``with`` that an error ends."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    api = client(server).init()
    monkeypatch.setattr(api._receivers, "flush", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.__exit__(ApiError, ApiError("an error"), None)
    assert api.state is State.CLOSED


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("can't start new thread")])
def test_a_thread_that_could_not_be_started_is_started_for_the_next_job(
    api: ComfyApi, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    """Which may need somebody who asks."""
    with monkeypatch.context() as patch:
        fail_next_start(patch, error, "comfy-jobs")
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            api.submit(shows("a", waits=True))  # what has ended needs nobody who asks
    gate.set()
    assert api.run(shows("b"), timeout=LIMIT).texts == ("b",)
    assert any(thread.name == "comfy-jobs" for thread in threads())


def test_done_callbacks_are_called_though_no_thread_can_be_had_for_them(
    api: ComfyApi, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the socket's thread lives on."""
    job = api.submit(shows(waits=True))
    called: list[Any] = []
    job.add_done_callback(called.append)
    fail_next_start(monkeypatch, RuntimeError("can't start new thread"), "comfy-callbacks")
    gate.set()
    job.result(LIMIT)
    until(lambda: called == [job])
    assert api.connected


# -- cancel ------------------------------------------------------------------------------


def test_cancel_waits_for_the_submission_of_another_thread(
    server: ComfyServer, api: ComfyApi, gate: threading.Event
) -> None:
    """Nothing that it could stop is there before."""
    blocker = api.submit(shows("blocker", waits=True))
    prompt_id = api.generate_id()
    with server.faults.delay("POST", "/prompt", 1.0) as fault:
        submitting = threading.Thread(
            target=lambda: api.submit(shows(), prompt_id=prompt_id), daemon=True
        )
        submitting.start()
        until(lambda: fault.hits)
        job = api.job(prompt_id)
        assert job.cancel()
        submitting.join(LIMIT)
    assert isinstance(job.exception(LIMIT), JobInterrupted)
    gate.set()
    blocker.result(LIMIT)
    assert [ran.prompt_id for ran in server.ran] == [blocker.prompt_id]


@pytest.mark.parametrize("answer", [True, False])
def test_cancel_that_ctrl_c_cuts_off_has_cancelled(
    server: ComfyServer,
    api: ComfyApi,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool,
) -> None:
    """The prompt is gone, and by our hand; unless the server was not reached."""
    api.submit(shows(waits=True))
    job = api.submit(shows("b"))
    stop = cancelling.stop

    def interrupted(*args: Any, **kw: Any) -> bool:
        if answer:
            stop(*args, **kw)
        raise KeyboardInterrupt

    monkeypatch.setattr(cancelling, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.cancel()
    gate.set()
    error = job.exception(LIMIT)
    assert isinstance(error, JobInterrupted) if answer else error is None


def test_cancel_that_reached_nobody_makes_no_loss_an_interruption(
    server: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server forgot afterwards is lost."""
    api.submit(shows(waits=True))
    job = api.submit(shows("b"))

    def refused(*_: Any, **__: Any) -> bool:
        raise ServerUnreachable("refused")

    with monkeypatch.context() as patch:
        patch.setattr(cancelling, "stop", refused)
        with pytest.raises(ServerUnreachable):
            job.cancel()
    server.faults.lose_queue()
    assert isinstance(job.exception(LIMIT), JobLost)


def test_a_second_cancel_that_finds_nothing_does_not_undo_the_first(
    server: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that deleted it is the truth."""
    api.submit(shows(waits=True))
    job = api.submit(shows("b"))
    monkeypatch.setattr(api._poller, "wait_until", lambda happened, seconds: None)
    with api._tracker.lock:  # nobody learns of the first meanwhile
        assert job.cancel()
        assert state_of(job).cancelled
        assert not job.cancel()
    assert isinstance(job.exception(LIMIT), JobInterrupted)


def test_cancel_by_our_id_leaves_the_job_of_the_servers_id_watched(
    server: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are one prompt, and end together."""
    api.submit(shows(waits=True))
    server.faults.other_prompt_ids()
    ours = api.generate_id()
    first = api.submit(shows("b"), prompt_id=ours)
    monkeypatch.setattr(api._poller, "wait_until", lambda happened, seconds: None)
    with api._tracker.lock:  # before the thread that asks has found it
        second = api.job(ours)
        assert second.cancel()
    assert isinstance(first.exception(LIMIT), JobInterrupted)
    assert isinstance(second.exception(LIMIT), JobInterrupted)


def test_who_attaches_or_cancels_does_not_wait_for_the_pause_of_earlier_failures(
    server: ComfyServer, api: ComfyApi
) -> None:
    """The server has just answered, or is asked at once."""
    ended = api.run(shows("a"), timeout=LIMIT).prompt_id
    api.submit(shows(waits=True))
    job = api.submit(shows("b"))
    api._poller.hold = time.monotonic() + 3600.0
    assert api.job(ended).result(LIMIT).texts == ("a",)
    api._poller.hold = time.monotonic() + 3600.0
    assert job.cancel()
    assert isinstance(job.exception(LIMIT), JobInterrupted)


# -- what it costs -----------------------------------------------------------------------


def counted(server: ComfyServer, doing: Callable[[], None]) -> list[str]:
    """The paths that were asked for over HTTP meanwhile."""
    before = len(server.requests)
    doing()
    return [r.path for r in server.requests[before:] if r.path != "/ws"]


@pytest.mark.parametrize("count", [1, 20])
def test_a_link_that_is_cut_all_the_time_is_no_reason_to_ask_all_the_time(
    server: ComfyServer, gate: threading.Event, count: int
) -> None:
    """Less than two questions a second, with real patience; what polls ask is another matter."""
    with client(server, ComfyApi) as api:
        running = [api.submit(shows(str(number), waits=True)) for number in range(count)]
        begun = time.monotonic()

        def cut() -> None:
            while time.monotonic() - begun < 8.0:
                server.until(lambda: api.connected, LIMIT)
                server.faults.drop()
                server.until(lambda: not api.connected, LIMIT)
                time.sleep(0.7)

        asked = [path for path in counted(server, cut) if not path.endswith("/prompt")]
        assert len(asked) < 2 * (time.monotonic() - begun) + 2
        gate.set()
        assert [job.result(LIMIT).texts for job in running] == [(str(n),) for n in range(count)]


def test_taking_up_what_has_ended_does_not_ask_for_everybodys_graphs(
    server: ComfyServer, api: ComfyApi
) -> None:
    """One small question each."""
    ids = [api.run(shows(str(number)), timeout=LIMIT).prompt_id for number in range(20)]
    with client(server) as other:
        asked = counted(server, lambda: [other.job(each).result(LIMIT) for each in ids] and None)
    assert "/queue" not in asked
    assert len(asked) <= 22


@pytest.mark.parametrize("fault", ["deaf", "go_dark"])
def test_what_others_delete_is_lost_soon_though_nothing_says_so(
    server: ComfyServer, fault: str
) -> None:
    """With real patience: one interval, 15 s at most."""
    with client(server, ComfyApi) as api, client(server, transport="poll") as other:
        api.submit(shows(waits=True))
        job = api.submit(shows("b"))
        until(lambda: job.status == "pending")
        with getattr(server.faults, fault)():
            until(
                lambda: time.monotonic() - state_of(job).posted_at > 6.0
            )  # it was looked for once
            other.delete_from_queue(job.prompt_id)
            start = time.monotonic()
            assert isinstance(job.exception(LIMIT), JobLost)
            assert time.monotonic() - start < 16.0
