"""A prompt is taken exactly once, without any server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from comfy_client.errors import (
    ApiError,
    ClientClosed,
    RequestTimeout,
    ServerUnreachable,
    SubmitUncertain,
)
from comfy_client.event_queue import Budget
from comfy_client.jobs import poller as submission
from comfy_client.jobs.lookup import find, find_earlier
from comfy_client.jobs.poller import post, time_left
from comfy_client.jobs.prompt import Prompt
from comfy_client.jobs.state import PromptState
from comfy_client.log_records import ServerLog
from comfy_client.models import Features, Queue, QueuedPrompt
from comfy_client.routes.definitions import NodeDefinitions
from comfy_client.routes.prompts import EXTRA_DATA_KEY, make_prompt
from comfy_client.timing import Timing
from comfy_client.transport.deadline import Deadline
from comfy_client.workflow import Workflow
from comfy_client.workflow.edit import graph_of
from comfy_client.workflow.graph import files_in
from tests.helpers.http import opened
from tests.helpers.patches import tell_time
from tests.walks import Walk, traced

GRAPH = {"9": {"class_type": "SaveImage", "inputs": {}}}

ANSWER = {"prompt_id": "the-id", "number": 3, "node_errors": {}}
RECEIPT = QueuedPrompt.from_json(ANSWER)


def a_prompt(**known):
    state = PromptState("the-id", GRAPH, Budget(1 << 20), Timing())
    for name, value in {"client_id": "me", **known}.items():
        setattr(state, name, value)
    return Prompt(state, None)


class Server:
    """Answers POSTs in turn; ``found`` is what looks for the prompt find.

    They are had one after the other, the last one again and again.
    """

    def __init__(self, *answers, found=(None,)):
        self.total_timeout = 60.0
        self.identity = SimpleNamespace(gives_away=lambda server_id: False)
        self.answers = list(answers)
        self.found = list(found)
        self.posts = 0
        self.looks = 0

    def json(self, method, route, **options):
        if method == "GET":
            return self.look(route)
        assert (method, route) == ("POST", "/prompt")
        self.posts += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def look(self, route):
        """Answer a look-up: the queue has what is to be found, the history has nothing."""
        if route != "/queue":
            return {}
        self.looks += 1
        result = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(result, Exception):
            raise result
        mark = {"client_id": "me", EXTRA_DATA_KEY: "the-id"}
        pending = [[3, result, GRAPH, mark, []]] if result else []
        return {"queue_running": [], "queue_pending": pending}


class Clock:
    """Time passes only in pauses, however busy the machine is."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def wait_stopped(self, seconds):
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    tell_time(monkeypatch, found.monotonic)
    return found


@pytest.fixture
def send(clock):
    def do(server, one=None, *, resubmit=False, wake=clock):
        log = ServerLog("http://gpu:8188")
        tracker = SimpleNamespace(http=server, wake=wake, log=log, timing=Timing())
        known, state = NodeDefinitions(server, lambda: None), (one or a_prompt()).state
        return post(tracker, known, state, {}, Deadline(), resubmit=resubmit)

    return do


def test_an_answer_is_the_receipt(send):
    """Nothing is looked for."""
    server = Server(ANSWER)
    assert send(server) == RECEIPT
    assert (server.posts, server.looks) == (1, 0)


@pytest.mark.parametrize("failure", [ServerUnreachable("gone"), ApiError("no", status=403)])
def test_a_prompt_that_was_surely_not_accepted_raises_its_error_unchanged(send, failure):
    """Nothing was sent, or the server said no."""
    server = Server(failure)
    with pytest.raises(type(failure)) as caught:
        send(server)
    assert caught.value is failure
    assert server.looks == 0


@pytest.mark.parametrize("failure", [RequestTimeout("silent"), ApiError("", status=504)])
def test_a_prompt_that_may_have_been_accepted_is_looked_for(send, failure):
    """And not sent again."""
    server = Server(failure, found=[ServerUnreachable("gone"), None, "their-id"])
    assert send(server).prompt_id == "their-id"
    assert (server.posts, server.looks) == (1, 3)


def test_an_event_of_it_is_as_good_as_a_look(send):
    """The socket was quicker."""
    server = Server(RequestTimeout("silent"))
    assert send(server, a_prompt(started=True)).prompt_id == "the-id"
    assert server.looks == 0


def test_a_prompt_without_a_trace_is_uncertain(send):
    """The caller may say that it is to be sent again: twice, and then it is uncertain too."""
    for resubmit, posts in ((False, 1), (True, 3)):
        server = Server(*[RequestTimeout("silent")] * posts)
        with pytest.raises(SubmitUncertain) as caught:
            send(server, resubmit=resubmit)
        assert caught.value.prompt_id == "the-id"
        assert server.posts == posts


def test_resubmit_needs_the_server_to_say_that_it_has_nothing(send):
    """Looks that failed are no such word."""
    server = Server(RequestTimeout("silent"), found=[ServerUnreachable("gone")])
    with pytest.raises(SubmitUncertain):
        send(server, resubmit=True)
    assert server.posts == 1


def test_a_repeat_that_cannot_connect_does_not_make_the_first_certain(send):
    """That one may still appear; meanwhile it goes on."""
    gone = ServerUnreachable("gone")
    server = Server(RequestTimeout("silent"), gone, gone)
    with pytest.raises(SubmitUncertain):
        send(server, resubmit=True)
    assert server.posts == 3
    assert send(Server(RequestTimeout("silent"), gone, ANSWER), resubmit=True) == RECEIPT


def test_a_repeat_that_is_refused_does_not_make_the_first_certain(send):
    """A server that has died since may have taken it."""
    refusal = ApiError("no", status=403)
    server = Server(RequestTimeout("silent"), refusal)
    with pytest.raises(SubmitUncertain) as caught:
        send(server, resubmit=True)
    assert caught.value.__cause__ is refusal


def test_a_server_that_is_away_is_waited_for_before_anything_is_sent_again(send, clock):
    """For the client's own time, not only as long as a submission is looked for."""
    found = [*[ServerUnreachable("gone")] * 12, None]
    server = Server(RequestTimeout("silent"), ANSWER, found=found)
    assert send(server, resubmit=True) == RECEIPT
    assert Timing().look_up < clock.now < 60.0


def test_a_server_that_is_well_soon_says_that_it_has_nothing(send, clock):
    """Several looks in a row, apart in time; one that failed begins the count anew."""
    found = [None, None, ServerUnreachable("gone"), None]
    server = Server(RequestTimeout("silent"), found=found)
    with pytest.raises(SubmitUncertain):
        send(server)
    assert server.looks >= 3 + submission.EMPTY_LOOKUPS
    assert Timing().look_up_sure <= clock.now < Timing().look_up


def test_a_submission_that_arrives_two_seconds_late_is_found(send):
    """A few looks in a row say nothing as long as it may be on its way."""
    server = Server(RequestTimeout("silent"), found=[None, None, None, None, "the-id"])
    assert send(server, resubmit=True).prompt_id == "the-id"
    assert server.posts == 1


def test_looks_on_both_sides_of_an_outage_are_no_row_of_looks(send):
    """It may have arrived in between."""
    away = [RequestTimeout("away")] * 3
    server = Server(RequestTimeout("silent"), found=[None, None, *away, None, None, "the-id"])
    assert send(server, resubmit=True).prompt_id == "the-id"
    assert (server.posts, server.looks) == (1, 8)


def test_a_single_look_as_time_runs_out_is_no_proof(send, clock):
    """The submission may still be on its way when the search must end."""
    server = Server(RequestTimeout("silent"), ANSWER, found=[None])
    server.total_timeout = 0.0

    def late(seconds):
        clock.now += 11.0  # past ``look_up``, as on a busy machine
        return False

    with pytest.raises(SubmitUncertain):
        send(server, resubmit=True, wake=SimpleNamespace(wait_stopped=late))
    assert (server.posts, server.looks) == (1, 1)


def test_closing_the_client_ends_the_search(send):
    """At once."""
    with pytest.raises(ClientClosed):
        send(Server(RequestTimeout("silent")), wake=SimpleNamespace(wait_stopped=lambda _: True))


def test_there_is_always_a_second_to_find_out_what_became_of_it(clock):
    """However short the caller's patience was."""
    assert time_left(Deadline(), 60.0) == 60.0
    assert time_left(Deadline(-5.0), 60.0) == 1.0
    assert time_left(Deadline(5.0), 60.0) == 5.0
    assert time_left(Deadline(100.0), 10.0) == 10.0


class Answers:
    """What a server says of its queue and of its history."""

    def __init__(self, history, queue=()):
        self.history = history
        self.queue = {"queue_running": [], "queue_pending": [*queue]}

    def json(self, method, route, **options):
        return self.queue if route == "/queue" else self.history


@pytest.mark.parametrize("key", ["the-id", "another"])
def test_a_record_counts_under_its_id_only(key):
    """Under another, it may be anybody's."""
    server = Answers({key: {"prompt": [3, "the-id", GRAPH, {}, []], "outputs": {}}})
    assert find(server, "the-id", "me", Deadline()) == (key if key == "the-id" else None)


def test_of_earlier_prompts_the_history_is_asked_by_the_ids_of_the_server():
    """Others are looked for by their mark."""
    asked = []
    routes = SimpleNamespace(
        get_queue=lambda: Queue(running=(), pending=()),
        get_features=lambda: Features.from_json({"a": True}),
        get_history=asked.append,
    )
    find_earlier(routes, {"never sent": None, "the-id": "the-id", "ours": "theirs"})
    assert asked == ["theirs"]


def test_each_node_is_visited_once_on_its_way_to_the_server() -> None:
    """Files, seeds, secrets and titles are found without a call for each node."""

    def walk(count: int) -> Walk:
        graph = {
            str(number): {
                "class_type": "KSampler",
                "inputs": {"seed": 1, "cfg": 1.5, "text": "a fox", "model": [str(number + 1), 0]},
            }
            for number in range(count)
        }
        graph[str(count)] = {"class_type": "Loader", "inputs": {}}
        workflow = Workflow(graph)

        def prepare() -> None:
            assert not files_in(graph_of(workflow))
            make_prompt(http, workflow, client_id="c", prompt_id="p")

        return traced(prepare)

    with opened("http://127.0.0.1:9") as http:
        walk(1)  # the first one asks whether the names are secret
        few, many = walk(10), walk(110)
    # For its inputs, and for its seed.
    assert many.calls - few.calls == 2 * 100
