"""Who runs and who waits, and for how long a look at that holds."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    NotSupported,
    RequestTimeout,
    ServerUnreachable,
    UnexpectedResponse,
)
from comfy_client.jobs.lookup import find, spellings
from comfy_client.jobs.queue_monitor import QueueMonitor, heeds_id
from comfy_client.jobs.state import QueueSnapshot
from comfy_client.log_records import ServerLog
from comfy_client.models import JobInfo, JobPage, Queue
from comfy_client.routes.prompts import EXTRA_DATA_KEY
from comfy_client.timing import Timing
from comfy_client.transport.deadline import Deadline
from comfy_client.transport.failures import is_away
from comfy_client.transport.websocket import State

GRAPH = {"1": {"class_type": "A", "inputs": {}}}


def item(number, prompt_id, mark=None, client_id="me"):
    extra = {} if mark is None else {EXTRA_DATA_KEY: mark, "client_id": client_id}
    return [number, prompt_id, GRAPH, extra, []]


def record(prompt_id, mark=None, client_id="me"):
    return {"prompt": item(1, prompt_id, mark, client_id), "outputs": {}}


def monitor_of(**times):
    log = ServerLog("http://gpu:8188")
    link = SimpleNamespace(state=State.CONNECTED, generation=1, log=log)
    return QueueMonitor(link, Timing(**times))


class Client:
    """What a look needs of its client."""

    def __init__(self, *, jobs=None, running=(), pending=()):
        self.jobs = jobs
        self.queue = {"queue_running": list(running), "queue_pending": list(pending)}
        self.asked = []

    def get_jobs(self, status):
        self.asked.append("jobs")
        if isinstance(self.jobs, Exception):
            raise self.jobs
        if isinstance(self.jobs, JobPage):
            return self.jobs
        return JobPage(jobs=tuple(JobInfo.from_json(job) for job in self.jobs))

    def get_queue(self, *, workflows_of):
        self.asked.append("queue")
        began = time.thread_time()
        while time.thread_time() == began:  # some of it, on Windows a step of its clock
            pass
        return Queue.from_json(self.queue)


# -- a look ------------------------------------------------------------------------------


def test_a_snapshot_knows_places():
    """What runs counts as before what waits."""
    found = QueueSnapshot(running=("r",), pending=("a", "b"))
    assert [one in found for one in ("r", "b", "x")] == [True, True, False]
    assert [found.ahead(one) for one in ("r", "a", "b")] == [None, 1, 2]
    assert found.first_of({"b", "a"}) == "a"
    assert found.first_of({"x"}) is None


def test_the_jobs_api_is_preferred_but_has_no_graphs():
    """It carries nobody's workflows; those only the queue tells."""
    listed = [
        {"id": "b", "status": "pending", "priority": 7},
        {"id": "r", "status": "in_progress", "priority": 9},
        {"id": "a", "status": "pending", "priority": 2},
        {"id": "c", "status": "pending", "priority": "first"},
    ]
    api = Client(jobs=listed, running=[item(9, "r")], pending=[item(7, "b"), item(2, "a")])
    monitor = monitor_of()
    monitor.departed = 4
    found = monitor.refresh(api)
    assert (found.running, found.pending, dict(found.graphs)) == (("r",), ("a", "b", "c"), {})
    assert found.departed == 4
    found = monitor.refresh(api, graphs_of=["a"])
    assert (found.pending, found.graphs["a"]) == (("a", "b"), GRAPH)
    assert api.asked == ["jobs", "queue"]


def test_a_status_that_nobody_knows_is_no_end():
    """What has ended is not there; all else is."""
    words = ("completed", "failed", "cancelled", "paused")
    found = monitor_of().refresh(Client(jobs=[{"id": s, "status": s} for s in words]))
    assert (found.running, found.pending) == ((), ("paused",))


def test_a_job_on_no_page_of_the_jobs_api_is_not_lost():
    """A server that gives pages unasked is asked for its queue, from then on at once."""
    first = JobInfo.from_json({"id": "a", "status": "in_progress"})
    page = JobPage(jobs=(first,), limit=1, total=2, has_more=True)
    api = Client(jobs=page, running=[item(0, "a")], pending=[item(1, "b")])
    monitor = monitor_of()
    for _ in range(2):
        assert "b" in monitor.refresh(api)
    assert api.asked == ["jobs", "queue", "queue"]


@pytest.mark.parametrize(
    "failure",
    [
        NotSupported("no such route", status=404),
        ApiError("it is broken", status=500),
        UnexpectedResponse("a page"),
    ],
)
def test_a_missing_jobs_api_is_remembered_and_the_queue_asked(failure):
    """Nor is one relied on that fails."""
    api = Client(jobs=failure, pending=[item(2, "a")])
    monitor = monitor_of()
    assert monitor.refresh(api).pending == ("a",)
    assert monitor.refresh(api).pending == ("a",)
    assert api.asked == ["jobs", "queue", "queue"]


@pytest.mark.parametrize("failure", [ServerUnreachable("gone"), ApiError("", status=503)])
def test_a_server_that_is_away_says_nothing_about_its_jobs_api(failure):
    """The queue would fail as well."""
    api = Client(jobs=failure)
    with pytest.raises(type(failure)):
        monitor_of().refresh(api)
    assert api.asked == ["jobs"]


def test_a_jobs_api_that_wants_a_login_has_the_queue_asked_each_time():
    api = Client(jobs=AuthenticationError(""), pending=[item(2, "a")])
    monitor = monitor_of()
    assert monitor.refresh(api).pending == ("a",)
    assert monitor.refresh(api).pending == ("a",)
    assert api.asked == ["jobs", "queue", "jobs", "queue"]


# -- how long it holds -------------------------------------------------------------------


@pytest.fixture
def looked():
    """What was seen, and who remembers it."""
    api = Client(jobs=[{"id": "a", "status": "pending"}])
    monitor = monitor_of()
    return monitor, monitor.refresh(api)


def test_a_look_holds_while_the_socket_says_nothing_new(looked):
    """Each change of the queue is broadcast."""
    monitor, found = looked
    assert monitor.cached() is found
    monitor.count(1)
    assert monitor.cached() is None


def test_a_status_during_the_look_invalidates_the_cached_queue(looked):
    """A ``status`` that came between question and answer."""
    monitor, _ = looked
    monitor.status_at = monitor.at
    assert monitor.cached() is None


@pytest.mark.parametrize(
    "link", [{"state": State.WAITING, "generation": 1}, {"state": State.CONNECTED, "generation": 2}]
)
def test_a_look_does_not_outlast_its_socket(looked, link):
    """Something may have been said while there was none."""
    monitor, _ = looked
    monitor.connection = SimpleNamespace(**link)
    assert monitor.cached() is None


def test_a_change_of_ours_during_the_look_invalidates_the_cached_queue():
    monitor = monitor_of()

    class Changed(Client):
        def get_jobs(self, status):
            monitor.forget()
            return super().get_jobs(status)

    monitor.refresh(Changed(jobs=[]))
    assert monitor.cached() is None


def test_only_what_was_there_before_a_look_may_be_missing_in_it(looked):
    """What was submitted since is in the queue all the same."""
    monitor, _ = looked
    assert monitor.lacks("b", monitor.at - 1.0)
    assert not monitor.lacks("b", monitor.at)
    assert not monitor.lacks("a", monitor.at - 1.0)
    monitor.forget()
    assert not monitor.lacks("b", monitor.at - 1.0)


def test_a_look_does_not_hold_for_ever():
    """The socket may be deaf."""
    monitor = monitor_of(queue=0.0)
    monitor.refresh(Client(jobs=[]))
    assert monitor.cached() is None
    assert monitor_of().cached() is None


def test_a_look_that_took_long_has_to_do_for_a_while():
    """The rarer, the longer it took; what our own hand has changed is looked at anew."""
    api = Client(pending=[item(1, "a")], jobs=NotSupported(""))
    monitor = monitor_of(slow_queue=0.0, slow_queue_rest=1e6)
    assert monitor.stale() is None
    found = monitor.refresh(api)
    kept = monitor.stale()
    assert (kept.pending, kept.graphs) == (found.pending, {})  # graphs are for who asked
    monitor.forget()
    assert monitor.stale() is None
    monitor = monitor_of(slow_queue=5.0, slow_queue_rest=1e6)
    monitor.refresh(api)
    assert monitor.stale() is None


def test_a_look_that_had_to_wait_took_not_long():
    """On a slow line or a busy machine it may be repeated at once."""
    api = Client(pending=[item(1, "a")], jobs=NotSupported(""))
    queue = api.get_queue

    def wait(**kw):
        threading.Event().wait(0.2)
        return queue(**kw)

    api.get_queue = wait
    monitor = monitor_of(slow_queue=0.1)
    monitor.refresh(api)
    assert monitor.stale() is None


# -- small parts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "single", "recent", "found"),
    [
        ([item(1, "mine")], {}, {}, "mine"),
        ([item(1, "own", "mine")], {}, {}, "own"),
        ([], {"mine": record("mine")}, {}, "mine"),
        ([], {}, {"own": record("own", "mine")}, "own"),
        ([item(1, "other")], {}, {"old": record("old")}, None),
        # Anybody may send our mark, and a server may say of any prompt that it is ours.
        ([item(1, "theirs", "mine"), item(2, "mine")], {}, {}, "mine"),
        ([item(1, "theirs", "mine")], {"mine": record("mine")}, {}, "mine"),
        ([item(1, "theirs", "mine", "them")], {}, {}, None),
        ([], {}, {"theirs": record("theirs", "mine", "them")}, None),
        ([], {"mine": record("theirs")}, {}, None),
        ([], {"mine": record("theirs", "mine")}, {"own": record("own", "mine")}, "own"),
    ],
)
def test_a_prompt_is_found_by_its_id_or_else_by_our_mark(queue, single, recent, found):
    """In the queue, then in its own record, then among the newest records."""
    answers = {
        "/queue": {"queue_running": [], "queue_pending": queue},
        "/history/mine": single,
        "/history": recent,
    }
    http = SimpleNamespace(json=lambda method, route, **_: answers[route])
    assert find(http, "mine", "me", Deadline.after(5)) == found


def test_an_id_as_it_was_given_counts_before_another_form_of_it():
    """Servers before 0.25 keep what they are sent, be it in capitals."""
    lower = "0d8a5a1c-2c75-4b43-9a5d-2f6f2c0fb0aa"
    assert spellings(lower) == (lower,)
    assert spellings("any text") == ("any text",)
    assert spellings(lower.upper()) == (lower.upper(), lower)
    assert spellings(f"{{{lower}}}") == (lower,)
    queue = [item(1, lower), item(2, lower.upper())]
    answer = {"queue_running": [], "queue_pending": queue}
    http = SimpleNamespace(json=lambda method, route, **_: answer)
    end = Deadline.after(5)
    assert find(http, lower.upper(), "me", end) == lower.upper()
    assert find(http, lower, "me", end) == find(http, f"{{{lower}}}", "me", end) == lower


@pytest.mark.parametrize(
    ("version", "heeds"),
    [
        ("0.3.56", False),
        ("0.3.57", True),
        ("0.3.75-dev", True),
        ("v0.4.0", True),
        ("0.26.1", True),
        ("1.0", True),
        ("0.2.99", False),
        ("unknown", False),
        (None, False),
        ("\u0664.0", False),  # a four, but not of a version
    ],
)
def test_only_the_version_says_whether_an_interrupt_heeds_the_id(version, heeds):
    """If in doubt, it does not."""
    stats = SimpleNamespace(comfyui_version=version)
    assert heeds_id(SimpleNamespace(get_system_stats=lambda: stats)) is heeds


@pytest.mark.parametrize(
    ("failure", "away"),
    [
        (ServerUnreachable("gone"), True),
        (RequestTimeout("silent"), True),
        (ApiError("", status=502), True),
        (ApiError("", status=524), True),
        (ApiError("", status=500), False),
        (AuthenticationError("", status=401), False),
        (UnexpectedResponse("a page"), False),
    ],
)
def test_a_proxy_that_answers_for_a_server_is_no_server(failure, away):
    """It does not know what became of the request either."""
    assert is_away(failure) is away


def test_a_report_without_a_usable_length_says_of_no_prompt_that_it_has_left() -> None:
    monitor = monitor_of()
    for remaining in (5, None, 5, None, 3):
        monitor.count(remaining)
    assert (monitor.departed, monitor.remaining) == (2, 3)
