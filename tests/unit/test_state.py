"""What events, the queue and the history make of a prompt: values only."""

from __future__ import annotations

import attrs
import pytest

from comfy_client.errors import ApiError, AuthenticationError, JobInterrupted, JobLost
from comfy_client.event_queue import LEAST, Budget
from comfy_client.events import (
    Executed,
    Executing,
    ExecutionCached,
    ExecutionStart,
    JobLostEvent,
    PreviewEvent,
    Progress,
    UnknownEvent,
    execution_error,
    execution_interrupted,
    execution_success,
)
from comfy_client.jobs.state import PromptState, QueueSnapshot
from comfy_client.models import HistoryEntry, QueuedPrompt
from comfy_client.timing import Timing

GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}
LINK = 3  # the number of the socket that saw the submission
OUTPUT = {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}
TIMING = Timing(lost=2.0, history=3.0, silence=5.0, look_up=10.0)


def a_state(graph=GRAPH, **known):
    facts = {"generation": LINK, "posted_at": 0.0, "accepted_at": 0.0, **known}
    state = PromptState("the-id", graph, Budget(1 << 30), TIMING)
    for name, value in facts.items():
        setattr(state, name, value)
    return state


def of(kind, name, **facts):
    return kind(name=name, prompt_id="the-id", **facts)


START = of(ExecutionStart, "execution_start")
NOTHING_CACHED = of(ExecutionCached, "execution_cached")
RUNS = of(Executing, "executing", node="1")
LEFT = of(Executed, "executed", node="9", output=OUTPUT)
OVER = of(Executing, "executing", node=None)
SUCCESS = execution_success({"prompt_id": "the-id"})
BLOCKED = execution_error({"prompt_id": "the-id", "exception_type": "ExecutionBlocked"})
FAILED = execution_error({"prompt_id": "the-id", "exception_type": "ValueError", "node_id": "1"})
STOPPED = execution_interrupted({"prompt_id": "the-id"})


def cached(*nodes):
    return of(ExecutionCached, "execution_cached", nodes=nodes)


def apply(state, *events, link=LINK, now=1.0):
    """What the last of these events makes of it; those before it decide nothing."""
    for event in events[:-1]:
        assert state.apply_event(event, now, link) is None
    return state.apply_event(events[-1], now, link)


def entry(outputs=None):
    """A record of a success."""
    return HistoryEntry.from_json(
        {
            "prompt": [0, "the-id", GRAPH, {}, ["9"]],
            "outputs": {"9": OUTPUT} if outputs is None else outputs,
            "status": {"status_str": "success", "completed": True, "messages": []},
        }
    )


def queue(*, running=(), pending=(), **more):
    return QueueSnapshot(running=running, pending=pending, **more)


# -- events -------------------------------------------------------------------------------


def test_an_unbroken_socket_that_saw_all_decides_by_events_alone():
    outcome = apply(a_state(), START, NOTHING_CACHED, RUNS, LEFT, SUCCESS)
    assert outcome.event is SUCCESS
    assert dict(outcome.outputs) == {"9": OUTPUT}
    assert (outcome.complete, outcome.fully_cached, outcome.error) == (True, False, None)


@pytest.mark.parametrize(
    ("events", "link"),
    [
        ((NOTHING_CACHED, RUNS, LEFT, SUCCESS), LINK),
        ((START, RUNS, LEFT, SUCCESS), LINK),
        ((START, cached("1", "9"), SUCCESS), LINK),
        ((START, NOTHING_CACHED, RUNS, LEFT, SUCCESS), LINK + 1),
        ((START, NOTHING_CACHED, RUNS, LEFT, SUCCESS), None),
    ],
    ids=["no start", "no word of the cache", "cached output untold", "another socket", "no socket"],
)
def test_a_success_with_a_gap_waits_for_its_record(events, link):
    state = a_state()
    assert apply(state, *events, link=link) is None
    assert state.end_event is SUCCESS
    assert state.awaits_history
    assert state.check_at == 0.0


def test_cached_nodes_listed_by_the_socket_are_known():
    outcome = apply(a_state(), START, cached("1", "9"), LEFT, SUCCESS)
    assert outcome.fully_cached
    assert outcome.cached_nodes == ("1", "9")


def test_executing_no_node_ends_a_prompt_of_a_server_without_success_events():
    """Before July 2024; the end event is ours then."""
    outcome = apply(a_state(), START, NOTHING_CACHED, RUNS, LEFT, OVER)
    assert outcome.event.name == "execution_success"
    assert not outcome.event.recovered


def test_executing_nothing_leaves_cached_outputs_to_the_record():
    """A server that tells no success does not report them."""
    state = a_state()
    assert apply(state, START, cached("1"), LEFT, OVER) is None
    assert state.awaits_history


@pytest.mark.parametrize("event", [FAILED, STOPPED])
@pytest.mark.parametrize("link", [LINK, None])
def test_a_failure_needs_no_record(event, link):
    state = a_state()
    outcome = apply(state, event, link=link)
    assert (outcome.event, state.end_event) == (event, event)


def test_a_blocked_node_is_no_end():
    state = a_state()
    assert apply(state, START, BLOCKED) is None
    assert state.end_event is None


NODE_FAILED = UnknownEvent(
    name="execution_node_error",
    prompt_id="the-id",
    data={"node_id": "5", "node_type": "Flaky", "exception_type": "E", "exception_message": "no"},
)
FAILURE = {
    "type": "execution_node_error",
    "message": "no",
    "details": "E",
    "extra_info": {},
}
NODE_ERRORS = {"5": {"errors": [FAILURE], "dependent_outputs": [], "class_type": "Flaky"}}


def test_a_failed_node_after_which_the_server_goes_on_is_no_end():
    """As since 0.36, if ``extra_data`` asks for it; the result tells which nodes failed."""
    state = a_state()
    outcome = apply(state, START, NOTHING_CACHED, NODE_FAILED, LEFT, SUCCESS)
    assert (outcome.status, outcome.outputs) == ("succeeded", {"9": OUTPUT})
    assert state.node_errors == NODE_ERRORS
    late = a_state()
    said = {"execution_node_error": NODE_FAILED.data, "execution_success": {}}
    record = HistoryEntry.from_json(
        {
            "prompt": [0, "the-id", GRAPH, {}, ["9"]],
            "outputs": {"9": OUTPUT},
            "status": {"status_str": "success", "messages": [[*one] for one in said.items()]},
        }
    )
    assert late.apply_history(record, 1.0, LINK).status == "succeeded"
    assert late.node_errors == NODE_ERRORS


def test_a_prompt_whose_outputs_all_failed_has_failed():
    """The server sends the failure of the prompt after that of the node."""
    assert apply(a_state(), START, NODE_FAILED, FAILED).status == "failed"


def test_unknown_events_of_other_names_report_no_node_errors():
    state = a_state()
    many = [attrs.evolve(NODE_FAILED, data={"node_id": str(n)}) for n in range(1001)]
    other = attrs.evolve(NODE_FAILED, name="execution_other")
    apply(state, other, attrs.evolve(NODE_FAILED, data=[1]))
    assert state.node_errors == {}
    apply(state, *many)
    assert len(state.node_errors) == 1000  # whatever a server sends


def test_events_after_the_end_change_nothing():
    state = a_state(decided=True)
    assert apply(state, FAILED) is None
    assert (state.end_event, state.news_by) == (None, "")


def test_an_event_of_a_node_is_news_and_says_nothing_of_the_queue():
    state = a_state(ahead=2, check_at=9.0)
    apply(state, of(UnknownEvent, "my_node"), now=4.0)
    assert (state.news_at, state.ahead, state.check_at) == (4.0, 2, 9.0)


def test_every_other_event_puts_the_next_question_off():
    state = a_state(missed_at=1.0)
    apply(state, of(Progress, "progress", node="1", value=1, max=3), now=4.0)
    assert (state.check_at, state.missed_at, state.sampled) == (4.0 + TIMING.silence, None, True)


def test_a_running_job_is_not_in_the_queue():
    state = a_state(ahead=2, cancelled=True)
    apply(state, RUNS, now=4.0)
    assert (state.ahead, state.cancelled, state.running_since) == (None, False, 4.0)


def test_time_is_counted_from_the_first_word_that_it_runs():
    state = a_state()
    apply(state, START, now=1.0)
    apply(state, RUNS, now=5.0)
    assert state.elapsed(7.0) == 6.0


def test_no_time_passes_after_the_end():
    """Whoever asks later is told the same."""
    state = a_state()
    apply(state, START, now=1.0)
    state.ended_at = 4.0
    assert state.elapsed(4.0) == state.elapsed(400.0) == 3.0


def test_time_is_counted_by_node():
    state = a_state()
    for now, node in ((1.0, "1"), (4.0, "9"), (5.0, "1"), (7.0, None)):
        apply(state, of(Executing, "executing", node=node), now=now)
    assert state.spent == {"1": 5.0, "9": 1.0}


def test_no_time_counts_after_the_end():
    """``executing`` without a node comes after it."""
    state = a_state()
    apply(state, START, RUNS, now=1.0)
    apply(state, SUCCESS, now=3.0)
    apply(state, OVER, now=9.0)
    assert state.spent == {"1": 2.0}


def test_pictures_that_are_outputs_are_kept_and_counted():
    state = a_state()
    for final, name in (
        (True, "b_preview"),
        (True, "b_preview_with_metadata"),
        (False, "b_preview"),
    ):
        apply(
            state,
            of(PreviewEvent, name, node_id="9", view=memoryview(b"x"), final=final, nbytes=700),
        )
    assert [node for node, _, _ in state.frames] == ["9"]
    assert state.nbytes == 700 + LEAST
    assert state.previewed


def test_a_wish_for_previews_that_none_answers_is_noticed():
    state = a_state(wants_previews=True)
    step = of(Progress, "progress", node="1", value=1, max=3)
    outcome = apply(state, START, NOTHING_CACHED, RUNS, step, LEFT, SUCCESS)
    assert outcome.lacks_previews


# -- the queue ----------------------------------------------------------------------------


def test_the_queue_says_where_it_is():
    state = a_state(attached=True, search_by_mark=True, missed_at=1.0, graph={})
    state.apply_queue(
        queue(running=("x",), pending=("y", "the-id"), graphs={"the-id": GRAPH}, departed=7),
        2.0,
        LINK,
    )
    assert (state.ahead, state.leaves_at, state.graph) == (2, 10, GRAPH)
    assert (state.missed_at, state.search_by_mark, state.http_checked) == (None, False, True)
    assert (state.news_at, state.news_by) == (2.0, "HTTP")


def test_a_place_in_the_queue_that_did_not_change_is_no_news():
    state = a_state()
    for now in (2.0, 3.0):
        state.apply_queue(queue(running=("x",), pending=("the-id",)), now, LINK)
    assert state.news_at == 2.0


def test_a_job_that_the_queue_runs_is_running():
    state = a_state(ahead=1)
    state.apply_queue(queue(running=("the-id",)), 2.0, LINK)
    assert (state.ahead, state.running_since) == (None, 2.0)


@pytest.mark.parametrize(
    ("link", "attached", "first", "most"),
    [
        (LINK, False, TIMING.silence, TIMING.silence_cap),
        (LINK, True, TIMING.job_poll_cap, TIMING.silence_cap),
        (None, False, TIMING.job_poll, TIMING.job_poll_cap),
    ],
)
def test_questions_become_rare(link, attached, first, most):
    state = a_state(attached=attached)
    pauses = []
    for _ in range(20):
        state.asked(100.0, link)
        pauses.append(state.check_at - 100.0)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (pytest.approx(first), most)


# -- the history --------------------------------------------------------------------------


def test_a_record_of_a_success_ends_it():
    state = a_state(outputs={"8": {"text": ["x"]}})
    outcome = state.apply_history(entry(), 2.0, LINK)
    assert outcome.event.recovered
    assert dict(outcome.outputs) == {"8": {"text": ["x"]}, "9": OUTPUT}
    assert outcome.has_record


def test_of_outputs_that_events_and_the_record_have_those_of_the_record_count():
    """What events alone told is kept, too."""
    state = a_state()
    other = of(Executed, "executed", node="7", output={"text": ["told"]})
    apply(state, START, LEFT, other, link=None)
    written = {"9": {"images": [{"filename": "b.png", "subfolder": "", "type": "output"}]}}
    outcome = state.apply_history(entry(outputs=written), 2.0, None)
    assert dict(outcome.outputs) == {"7": {"text": ["told"]}, **written}


def test_a_record_without_outputs_to_run_is_all_from_the_cache():
    state = a_state(cached=frozenset({"1", "9"}))
    assert state.apply_history(entry(), 2.0, None).fully_cached


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (["execution_error", {"node_id": "1"}], "execution_error"),
        (["execution_interrupted", {"node_id": "1"}], "execution_interrupted"),
    ],
)
def test_a_record_of_a_failure_ends_it(message, name):
    record = HistoryEntry.from_json(
        {
            "prompt": [0, "the-id", GRAPH, {}, ["9"]],
            "outputs": {},
            "status": {"status_str": "error", "completed": False, "messages": [message]},
        }
    )
    outcome = a_state().apply_history(record, 2.0, LINK)
    assert (outcome.event.name, outcome.event.recovered) == (name, True)


def test_in_neither_twice_and_apart_in_time_is_lost():
    state = a_state()
    assert state.apply_history(None, 2.0, LINK) is None
    assert state.check_at == 4.0
    assert state.apply_history(None, 3.9, LINK) is None
    outcome = state.apply_history(None, 4.0, LINK)
    assert isinstance(outcome.event, JobLostEvent)
    assert isinstance(outcome.error, JobLost)
    assert not outcome.has_record


def test_a_prompt_that_may_be_on_its_way_is_not_lost_so_soon():
    state = a_state()
    state.may_have_arrived(0.0)
    assert (state.search_by_mark, state.generation) == (True, None)
    assert state.apply_history(None, 2.0, LINK) is None
    assert state.apply_history(None, 11.9, LINK) is None
    assert state.apply_history(None, 12.0, LINK) is not None


def test_an_event_between_the_two_looks_says_that_it_is_there():
    state = a_state()
    state.apply_history(None, 2.0, LINK)
    apply(state, RUNS, now=3.0)
    assert state.apply_history(None, 5.0, LINK) is None


def test_a_job_that_we_deleted_is_interrupted_and_not_lost():
    outcome = a_state(cancelled=True).apply_history(None, 2.0, LINK)
    assert isinstance(outcome.error, JobInterrupted)
    assert outcome.event.name == "execution_interrupted"


def test_a_prompt_that_ended_before_it_was_deleted_keeps_its_end():
    state = a_state()
    state.attach(0.0, None, SUCCESS)
    state.cancelled = True
    assert state.apply_history(None, 1.0, LINK) is None
    assert state.apply_history(None, 1.0 + TIMING.history, LINK).event is SUCCESS


def test_a_record_may_come_later_than_the_end_event():
    """After that, the event alone has to do: maybe outputs are missing."""
    state = a_state()
    apply(state, START, cached("1", "9"), SUCCESS)
    assert state.apply_history(None, 2.0, LINK) is None
    assert state.apply_history(None, 4.9, LINK) is None
    outcome = state.apply_history(None, 5.0, LINK)
    assert (outcome.event, outcome.complete) == (SUCCESS, False)


def test_a_success_without_a_record_is_not_said_to_be_from_the_cache():
    """Nobody saw a node run, and nobody saw one that did not."""
    state = a_state()
    assert apply(state, SUCCESS, link=None) is None
    outcome = state.as_reported(None)
    assert (outcome.complete, outcome.fully_cached, outcome.cached_nodes) == (False, False, ())


def test_an_end_that_nobody_reported_is_asked_for_again():
    state = a_state()
    apply(state, START, OVER)
    assert state.awaits_history
    state.apply_history(None, 2.0, LINK)
    assert state.apply_history(None, 5.0, LINK) is None
    assert not state.awaits_history


PICTURES = {"9": {"class_type": "SaveImageWebsocket", "inputs": {}}}


def test_pictures_on_a_slow_line_are_waited_for_as_long_as_something_comes():
    state = a_state(PICTURES)
    assert state.apply_history(entry(outputs={}), 10.0, LINK, quiet_for=1.0) is None
    assert state.check_at == 11.0
    outcome = state.apply_history(entry(outputs={}), 11.0, LINK, quiet_for=9.0)
    assert not outcome.complete
    assert "some may be missing" in state.remarks[0]


def test_pictures_are_not_waited_for_for_ever():
    """Other events may flow without end."""
    state = a_state(PICTURES)
    last = 10.0 + TIMING.pictures
    for now in (10.0, last - 0.1):
        assert state.apply_history(entry(outputs={}), now, LINK, quiet_for=0.0) is None
    assert not state.apply_history(entry(outputs={}), last, LINK, quiet_for=0.0).complete


def test_pictures_are_complete_once_the_socket_sent_the_end():
    state = a_state(PICTURES, ended=True)
    outcome = state.apply_history(entry(outputs={}), 10.0, LINK, quiet_for=9.0)
    assert outcome.complete
    assert not state.remarks


# -- refusals -----------------------------------------------------------------------------


def refuse(state, exc, times, *, link=None, most=3, is_over=False):
    for _ in range(times - 1):
        assert state.apply_refusal(exc, 9.0, link, most=most, is_over=is_over) is None
    return state.apply_refusal(exc, 9.0, link, most=most, is_over=is_over)


def test_repeated_refusals_of_history_end_a_job_with_the_refusal():
    refused = AuthenticationError("no", status=401)
    outcome = refuse(a_state(), refused, 3)
    assert str(outcome.error) == "no"
    assert outcome.error is not refused
    assert (outcome.is_final, outcome.has_record) == (False, False)
    assert "out of reach" in outcome.event.reason


def test_a_refusal_that_does_not_count_ends_nothing():
    assert refuse(a_state(), ApiError("", status=503), 30, most=0) is None


def test_a_socket_that_will_send_the_end_is_waited_for():
    state = a_state(check_at=1.0)
    assert refuse(state, ApiError("", status=500), 30, link=LINK) is None
    assert state.check_at == 9.0


def test_a_socket_without_a_gap_is_waited_for_although_the_queue_is_empty():
    """Its last events are on their way."""
    assert refuse(a_state(), ApiError("x", status=500), 30, link=LINK, is_over=True) is None


def test_a_socket_that_has_sent_the_end_is_not_waited_for():
    state = a_state()
    apply(state, START, cached("1", "9"), SUCCESS)
    outcome = refuse(state, ApiError("x", status=500), 3, link=LINK)
    assert (outcome.event, outcome.error) == (SUCCESS, None)


def test_an_end_lost_in_a_gap_is_found_by_the_empty_queue():
    """The queue is empty, so it has ended."""
    outcome = refuse(a_state(), ApiError("x", status=500), 3, link=LINK + 1, is_over=True)
    assert outcome is not None


def test_an_end_that_was_reported_stands_though_its_record_is_refused():
    state = a_state()
    apply(state, START, cached("1", "9"), SUCCESS, link=None)
    outcome = refuse(state, AuthenticationError("no", status=401), 3)
    assert (outcome.event, outcome.complete, outcome.error) == (SUCCESS, False, None)


def test_an_answer_starts_the_count_anew():
    state = a_state()
    refuse(state, ApiError("", status=500), 2)
    state.asked(1.0, None)
    assert refuse(state, ApiError("", status=500), 2) is None


# -- its submission -----------------------------------------------------------------------


@pytest.mark.parametrize(("link", "pause"), [(LINK, TIMING.silence), (None, TIMING.job_poll)])
def test_the_first_question_depends_on_whether_there_is_a_socket(link, pause):
    state = a_state(accepted_at=None)
    state.accept(QueuedPrompt("the-id", number=4), 10.0, link)
    assert (state.check_at, state.number) == (10.0 + pause, 4)


def test_the_answer_puts_no_question_off():
    """One that an event has asked for is due sooner."""
    state = a_state(accepted_at=None)
    apply(state, START, now=1.0)
    due = state.check_at
    state.accept(QueuedPrompt("the-id"), 10.0, LINK)
    assert state.check_at == due


def test_a_prompt_that_was_cancelled_before_the_answer_is_asked_about_at_once():
    state = a_state(accepted_at=None, cancelled=True)
    state.accept(QueuedPrompt("the-id"), 10.0, LINK)
    assert state.check_at == 0.0


def test_an_end_before_the_answer_is_asked_about_at_once():
    state = a_state(accepted_at=None)
    apply(state, START, OVER)
    state.accept(QueuedPrompt("the-id"), 10.0, LINK)
    assert state.check_at == 0.0


def test_a_prompt_that_is_attached_after_its_end_needs_only_its_record():
    state = a_state()
    state.attach(5.0, None, SUCCESS)
    assert (state.attached, state.awaits_history, state.search_by_mark) == (True, True, False)


def test_a_released_state_keeps_no_events_or_outputs():
    state = a_state()
    apply(state, START, NOTHING_CACHED, RUNS, LEFT)
    assert state.nbytes
    state.release()
    assert (state.nbytes, state.outputs, state.visited) == (0, {}, set())
