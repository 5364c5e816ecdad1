"""A hosted job is submitted exactly once, without any server and without time passing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    NotFound,
    NotSupported,
    PaymentRequired,
    PromptRejected,
    RequestTimeout,
    ServerUnreachable,
    SubmitUncertain,
    Throttled,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.event_queue import Budget
from comfy_client.hosted.job_poller import find_earlier
from comfy_client.hosted.models import HostedJob, HostedJobs, has_mark
from comfy_client.hosted.older_api import JobSearch
from comfy_client.hosted.references import is_about_references, reference, with_names
from comfy_client.hosted.sending import (
    LabelForm,
    Submission,
    is_label_of,
    is_uncertain,
    key_in,
    label_of,
)
from comfy_client.jobs.state import PromptState
from comfy_client.log_records import ServerLog
from comfy_client.routes.prompts import EXTRA_DATA_KEY
from comfy_client.timing import Timing
from comfy_client.transport.deadline import Deadline
from tests.helpers.patches import tell_time

KEY = "the-key"
GRAPH = {"9": {"class_type": "SaveImage", "inputs": {}}}
OLDER = "older-job"
SECRET = "hunter2-PASSWORD-77"

REFERRING = {"1": {"class_type": "LoadImage", "inputs": {"image": reference("a")}}, **GRAPH}


def refused(code: str, details: Any = None, message: str = "no", status: int = 422) -> ApiError:
    error = {"code": code, "message": message, "details": details}
    kw = {"status": status, "reason": code, "body": {"error": error}}
    return PromptRejected(message, error=error, node_errors={}, **kw)


def about(node_id: str, **info: Any) -> ApiError:
    """A refusal because of an input of a node."""
    error = {"type": "custom_validation_failed", "extra_info": info}
    return refused("invalid_workflow", {"node_errors": {node_id: {"errors": [error]}}})


LOST = TransportError("cut off")
UNKNOWN = refused("missing_asset", {"missing_ids": ["a"]})
REUSED = ApiError("used", status=422, reason="idempotency_key_reuse")
NO_LIST = NotSupported("no list", status=501, reason="not_implemented")
GONE = NotFound("gone", status=404)


def job(job_id: str, label: Any = None) -> dict[str, Any]:
    return {"id": job_id, "status": "queued", "metadata": label}


class Place:
    """Answers submissions in turn; lists jobs, and knows the workflows of some."""

    def __init__(
        self,
        *answers: str | Exception,
        listed: Any = (),
        own: tuple[str, ...] = (OLDER,),
        marks: dict[str, str] | None = None,
        form: LabelForm = "text",
    ) -> None:
        identity = SimpleNamespace(gives_away=lambda text: text == SECRET)
        log = ServerLog("http://gpu:8189")
        self.http = SimpleNamespace(total_timeout=60.0, identity=identity, log=log)
        self.answers = list(answers)
        self.listed: Any = listed if isinstance(listed, Exception) else list(listed)
        self.own = set(own)
        self.marks = marks or {}
        self.form = form
        self.posts: list[tuple[str, Any]] = []
        self.images: list[str] = []
        self.filters: list[Any] = []
        self.read: list[str] = []

    def submit(self, graph: Any, *, key: str, label: Any, **_: Any) -> HostedJob:
        assert has_mark(graph, key)
        self.posts.append((key, label))
        self.images += [
            image if isinstance(image, str) else "reference"
            for node in graph.values()
            if (image := node["inputs"].get("image"))
        ]
        if label is not None and label != label_of(key, self.form):
            code = "metadata_not_supported" if self.form == "none" else "metadata_invalid"
            raise ApiError("no such label", status=422, reason=code)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.own.add(answer)
        return HostedJob.from_json(job(answer))

    def jobs(self, *, label: Any = None, limit: int = 100, **_: Any) -> HostedJobs:
        self.filters.append(label)
        if isinstance(self.listed, Exception):
            raise self.listed
        if self.listed and isinstance(self.listed[0], Exception):
            raise self.listed.pop(0)
        found = [one for one in self.listed if label is None or one["metadata"] == label]
        # The proxy says so of no full list, whatever did not fit into it.
        return HostedJobs.from_json({"jobs": found[:limit], "truncated": False})

    def workflow(self, job_id: str, **_: Any) -> Any:
        self.read.append(job_id)
        if job_id not in self.own:
            raise GONE
        meta = {"comfy_client": self.marks[job_id]} if job_id in self.marks else {}
        return {"9": {"class_type": "SaveImage", "inputs": {}, "_meta": meta}}


class Clock:
    """Time passes only in pauses."""

    now = 0.0
    stops_at = float("inf")
    #: What happens in each pause.
    then: Callable[[], object] = staticmethod(lambda: None)

    def monotonic(self) -> float:
        return self.now

    def wait_stopped(self, seconds: float) -> bool:
        self.now += seconds
        self.then()
        return self.now >= self.stops_at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    tell_time(monkeypatch, found.monotonic)
    return found


Send = Callable[..., str]


@pytest.fixture
def send(clock: Clock) -> Send:
    def do(
        place: Place,
        submission: Submission | None = None,
        *,
        patience: float = 40.0,
        key: str = KEY,
        graph: dict[str, Any] = GRAPH,
    ) -> str:
        one = submission or of(place)
        tracker: Any = SimpleNamespace(
            http=place.http, wake=clock, log=ServerLog("http://gpu:8189"), timing=Timing()
        )
        state = PromptState(key, graph, Budget(1 << 20), Timing())
        return one.send(tracker, state, graph, None, Deadline(), patience).prompt_id

    return do


def of(
    place: Any,
    form: LabelForm = "text",
    *,
    remembers: bool = False,
    search: Any = None,
    names: Any = None,
) -> Submission:
    return Submission(
        place, form, remembers=remembers, search=search, name_of=names or (lambda _: None)
    )


def listed(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """An older job of ours, and others before it."""
    return [*more, job(OLDER, "somebody's")]


def uncertain(call: Callable[[], object]) -> str:
    with pytest.raises(SubmitUncertain) as caught:
        call()
    assert caught.value.prompt_id == KEY
    assert str(caught.value).count(KEY) >= 2  # the key, and the mark
    return str(caught.value)


# -- the first answer -----------------------------------------------------------------------------


def test_a_receipt_whose_id_is_a_secret_is_none(send) -> None:
    """Ids are shown everywhere."""
    with pytest.raises(UnexpectedResponse) as caught:
        send(Place(SECRET, SECRET, listed=listed(job(SECRET, {EXTRA_DATA_KEY: KEY}))))
    assert SECRET not in str(caught.value)


def test_an_answer_is_the_receipt(send) -> None:
    place = Place("job-1")
    assert send(place) == "job-1"
    assert place.posts == [(KEY, f"{EXTRA_DATA_KEY}={KEY}")]


@pytest.mark.parametrize(
    "refusal",
    [
        ServerUnreachable("nobody there"),
        AuthenticationError("who?", status=401),
        PaymentRequired("no credits", status=402),
        Throttled("later", status=429),
        ApiError("no", status=400, reason="invalid_request"),
        PromptRejected("bad", error={}, node_errors={}, status=422, reason="invalid_workflow"),
        UnexpectedResponse("moved", status=307),
        NotSupported("no jobs", status=501),
    ],
)
def test_a_definite_refusal_is_raised_unchanged(send, refusal) -> None:
    place = Place(refusal)
    with pytest.raises(type(refusal)) as caught:
        send(place)
    assert caught.value is refusal
    assert len(place.posts) == 1


def test_a_key_that_was_used_before_is_uncertain_at_once(send) -> None:
    """An earlier process used it."""
    place = Place(REUSED, listed=listed())
    assert "used before" in uncertain(lambda: send(place))
    assert len(place.posts) == 1


@pytest.mark.parametrize(
    ("error", "may_have_arrived"),
    [
        (LOST, True),
        (RequestTimeout("late"), True),
        (ApiError("gateway", status=502), True),
        (ApiError("slow", status=408), True),
        (UnexpectedResponse("a page", status=200), True),
        (UnexpectedResponse("a page", status=502), True),
        (UnexpectedResponse("moved", status=302), False),
        (ServerUnreachable("nobody"), False),
        (NotSupported("never", status=501), False),
        (ApiError("no", status=422), False),
        (ComfyError("a bug"), False),
    ],
)
def test_errors_after_which_a_submission_is_uncertain(error, may_have_arrived) -> None:
    assert is_uncertain(error) is may_have_arrived


# -- references to assets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        UNKNOWN,
        refused("missing_asset"),
        refused("invalid_request", message="no core/ASSET here", status=400),
        about("1", input_name="image"),
        about("1", input_name="images", linked_node=["1", 0]),
        about("1"),
    ],
)
def test_a_refused_reference_is_sent_as_a_name_once_and_then_at_once(send, refusal) -> None:
    """Under the same key; the client remembers it for its other jobs."""
    place = Place(refusal, "job-1", "job-2", listed=listed())
    one = of(place, names={"a": "a.png"}.get)
    assert send(place, one, graph=REFERRING) == "job-1"
    assert send(place, one, key="other", graph=REFERRING) == "job-2"
    assert [key for key, _ in place.posts] == [KEY, KEY, "other"]
    assert place.images == ["reference", "a.png", "a.png"]


@pytest.mark.parametrize(
    "refusal",
    [
        about("1", input_name="channel"),
        about("9", input_name="image"),
        about("other", input_name="image"),
        refused("invalid_workflow", {"node_errors": {"1": {"errors": "odd"}}}),
        refused("invalid_workflow", {"node_errors": {"1": "odd"}}),
        refused("invalid_workflow", "odd"),
        refused("workflow_format_ui"),
        refused("missing_asset", status=404),
        refused("missing_asset", status=403),
        refused("missing_asset", status=429),
        ApiError("no", status=422, reason="idempotency_key_used", body="missing"),
    ],
)
def test_any_other_refusal_is_raised_as_it_is(send, refusal) -> None:
    """It names no asset, or leaves open whether something was run."""
    place = Place(refusal, listed=listed())
    with pytest.raises(ApiError) as caught:
        send(place, of(place, names={"a": "a.png"}.get), graph=REFERRING)
    assert caught.value is refusal
    assert place.images == ["reference"]


def test_a_refused_name_is_raised_and_references_are_tried_again(send) -> None:
    """So the server does not refuse references as such; the error tells of both refusals."""
    place = Place(UNKNOWN, about("1", input_name="image"), "job-2", listed=listed())
    one = of(place, names={"a": "a.png"}.get)
    with pytest.raises(PromptRejected) as caught:
        send(place, one, graph=REFERRING)
    assert "references to assets were refused" in caught.value.__notes__[0]
    assert send(place, one, key="other", graph=REFERRING) == "job-2"
    assert place.images == ["reference", "a.png", "reference"]


def test_a_name_that_is_refused_later_has_no_earlier_refusal(send) -> None:
    bad = about("1", input_name="image")
    place = Place(UNKNOWN, "job-1", bad, listed=listed())
    one = of(place, names={"a": "a.png"}.get)
    send(place, one, graph=REFERRING)
    with pytest.raises(PromptRejected) as caught:
        send(place, one, key="other", graph=REFERRING)
    assert not hasattr(caught.value, "__notes__")
    assert place.images == ["reference", "a.png", "a.png"]


def test_a_name_that_another_file_may_have_is_not_sent(send) -> None:
    """Neither for one reference, nor if it is one of several."""
    both = {**REFERRING, "2": {"class_type": "LoadImage", "inputs": {"image": reference("b")}}}
    for graph in (REFERRING, both):
        refusal = refused("missing_asset")
        place = Place(refusal, listed=listed())
        with pytest.raises(PromptRejected) as caught:
            send(place, of(place, names={"b": "b.png"}.get), graph=graph)
        assert "another file may have it" in caught.value.__notes__[0]
        assert len(place.posts) == 1


def test_a_lost_answer_to_a_name_is_sent_again_as_a_name(send) -> None:
    place = Place(UNKNOWN, LOST, "job-1", listed=listed())
    assert send(place, of(place, names={"a": "a.png"}.get), graph=REFERRING) == "job-1"
    assert [key for key, _ in place.posts] == [KEY] * 3
    assert place.images == ["reference", "a.png", "a.png"]


def test_a_lost_answer_to_a_name_is_found_by_its_key(send) -> None:
    place = Place(UNKNOWN, LOST, REUSED, listed=listed())
    assert "knows its key" in uncertain(
        lambda: send(place, of(place, names={"a": "a.png"}.get), graph=REFERRING)
    )
    assert place.images == ["reference", "a.png", "a.png"]


@pytest.mark.parametrize("remembers", [True, False])
def test_after_a_lost_answer_a_name_is_sent_only_if_keys_are_surely_known(send, remembers) -> None:
    """A proxy that was restarted has forgotten the asset and the key, and would run it twice."""
    place = Place(LOST, UNKNOWN, "job-1", listed=listed())
    one = of(place, remembers=remembers, names={"a": "a.png"}.get)
    if remembers:
        assert send(place, one, graph=REFERRING) == "job-1"
        assert place.images == ["reference", "reference", "a.png"]
    else:
        uncertain(lambda: send(place, one, graph=REFERRING))
        assert place.images == ["reference", "reference"]


def test_references_are_found_and_named_at_any_depth() -> None:
    deep = {"1": {"class_type": "X", "inputs": {"list": [1, {"a": reference("a")}, ["2", 0]]}}}
    named = with_names(deep, {"a": "a.png"}.get)
    assert named == {"1": {"class_type": "X", "inputs": {"list": [1, {"a": "a.png"}, ["2", 0]]}}}
    assert deep["1"]["inputs"]["list"][1] == {"a": reference("a")}
    assert is_about_references(about("1", input_name="list"), deep)


@pytest.mark.parametrize("info", [None, "x", {}, {"id": 7}, {"id": ""}])
def test_a_malformed_reference_has_no_name(info) -> None:
    graph = {"1": {"inputs": {"image": {"__type": "core/ASSET", "info": info}}}, "2": "odd"}
    assert with_names(graph, lambda asset_id: "a.png" if asset_id else None) is None
    assert not is_about_references(UNKNOWN, graph)


def test_a_workflow_without_references_is_sent_as_it_is(send) -> None:
    assert with_names(GRAPH, {}.get) is None
    place = Place(UNKNOWN, listed=listed())
    with pytest.raises(PromptRejected):
        send(place)
    assert len(place.posts) == 1


# -- no answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cause",
    [
        LOST,
        ApiError("x", status=502),
        ApiError("x", status=408),
        UnexpectedResponse("a page", status=200),
    ],
)
def test_a_201_of_the_same_key_says_that_the_first_never_arrived(send, cause) -> None:
    place = Place(cause, "job-1", listed=listed())
    assert send(place) == "job-1"
    assert [key for key, _ in place.posts] == [KEY, KEY]


def test_a_job_is_found_by_its_label(send) -> None:
    place = Place(LOST, listed=listed(job("job-1", label_of(KEY, "text"))))
    assert send(place) == "job-1"
    assert len(place.posts) == 1
    assert place.read == []


def test_a_job_without_a_label_is_found_by_its_mark(send) -> None:
    """Some gateways drop labels."""
    place = Place(
        LOST, listed=listed(job("x"), job("job-1")), own=(OLDER, "job-1"), marks={"job-1": KEY}
    )
    assert send(place) == "job-1"
    assert len(place.posts) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        ApiError("busy", status=500),
        Throttled("wait", status=429, retry_after=3.0),
        RequestTimeout("silence"),
    ],
)
def test_a_job_whose_mark_cannot_be_read_now_may_be_ours(send, refusal) -> None:
    """It is looked at again before anything is sent once more."""
    jobs = [job(OLDER, "somebody's"), job("job-1")]
    place = Place(LOST, "twin", listed=jobs, own=(OLDER, "job-1"), marks={"job-1": KEY})
    refusals = [refusal]

    def read(job_id: str, **_: Any) -> Any:
        if job_id == "job-1" and refusals:
            raise refusals.pop()
        return Place.workflow(place, job_id)

    place.workflow = read  # type: ignore[method-assign]
    assert send(place) == "job-1"
    assert len(place.posts) == 1


def test_a_known_key_is_looked_for_until_its_job_is_listed(send, clock) -> None:
    """A proxy lists a job once ComfyUI has taken it."""
    place = Place(LOST, REUSED, listed=listed())

    def later() -> None:
        if clock.now > 5.0:
            place.listed = listed(job("job-1", label_of(KEY, "text")))

    clock.then = later
    assert send(place) == "job-1"
    assert len(place.posts) == 2


def test_a_known_key_whose_job_is_never_listed_is_uncertain(send, clock) -> None:
    place = Place(LOST, REUSED, listed=listed())
    assert "knows its key" in uncertain(lambda: send(place))
    assert len(place.posts) == 2
    assert clock.now < 2 * Timing().look_up


def test_an_error_of_the_proxy_means_that_it_no_longer_waits(send, clock) -> None:
    place = Place(ApiError("x", status=503, reason="upstream_unreachable"), REUSED, listed=listed())
    uncertain(lambda: send(place))
    assert clock.now < 2 * Timing().look_up_sure


def test_a_server_that_is_away_meanwhile_is_waited_for(send) -> None:
    away = ServerUnreachable("nobody")
    place = Place(LOST, away, LOST, "job-1", listed=listed())
    assert send(place) == "job-1"
    assert len(place.posts) == 4


def test_the_search_for_a_submission_ends_with_patience(send, clock) -> None:
    place = Place(*[LOST] * 100, listed=listed())
    uncertain(lambda: send(place, patience=7.0))
    assert 7.0 <= clock.now < 8.0


def test_an_unknown_asset_after_no_answer_is_uncertain(send) -> None:
    """A proxy looks for assets before it looks at the key, so the first may have arrived."""
    place = Place(LOST, UNKNOWN, listed=listed())
    assert "then it was refused" in uncertain(lambda: send(place, graph=REFERRING))


def test_a_refusal_of_the_second_try_frees_the_key_so_it_never_arrived(send) -> None:
    refusal = PromptRejected("bad", error={}, node_errors={}, status=422)
    place = Place(LOST, refusal, listed=listed())
    with pytest.raises(PromptRejected):
        send(place)


@pytest.mark.parametrize(
    "refusal", [AuthenticationError("who?", status=401), PaymentRequired("no", status=402)]
)
def test_a_refused_second_try_leaves_a_submission_uncertain(send, refusal) -> None:
    place = Place(LOST, refusal, listed=listed())
    assert "then it was refused" in uncertain(lambda: send(place))
    assert len(place.posts) == 2


@pytest.mark.parametrize(("retry_after", "least"), [(7.0, 7.0), (None, 0.0)])
def test_a_server_that_is_too_busy_for_the_second_try_is_waited_for(
    send, clock, retry_after: float | None, least: float
) -> None:
    """A 429 refuses the request, and says nothing of the job."""
    busy = Throttled("wait", status=429, retry_after=retry_after)
    place = Place(LOST, busy, "job-1", listed=listed())
    assert send(place) == "job-1"
    assert clock.now >= least


def test_a_server_that_is_too_busy_for_long_leaves_it_open(send, clock) -> None:
    place = Place(LOST, Throttled("wait", status=429, retry_after=3600.0), listed=listed())
    assert "wait" in uncertain(lambda: send(place))
    assert clock.now < 41.0


def test_a_client_that_is_closed_meanwhile_says_so(send, clock) -> None:
    clock.stops_at = 0.2
    place = Place(*[LOST] * 9, listed=listed())
    with pytest.raises(ClientClosed):
        send(place)


# -- a proxy that was restarted ------------------------------------------------------------------


def test_a_proxy_that_has_forgotten_an_older_job_may_have_forgotten_this_one(send) -> None:
    place = Place(LOST, "twice", listed=listed(), own=())
    assert "restarted" in uncertain(lambda: send(place))
    assert len(place.posts) == 1


def test_without_any_older_job_nothing_shows_a_restart(send, clock) -> None:
    """So it is looked for, but not sent again."""
    place = Place(LOST, "twice")
    assert "restarted" in uncertain(lambda: send(place))
    assert len(place.posts) == 1
    assert clock.now < 2 * Timing().look_up_sure


def test_the_last_job_of_this_client_is_the_witness(send) -> None:
    place = Place("job-1", LOST, "job-2", own=())
    submission = of(place)
    assert send(place, submission) == "job-1"
    assert send(place, submission, key="other") == "job-2"
    place.own.clear()
    place.answers = [LOST, "twice"]
    uncertain(lambda: send(place, submission))


def test_a_service_that_remembers_needs_no_witness(send) -> None:
    place = Place(LOST, "job-1", own=())
    assert send(place, of(place, remembers=True)) == "job-1"


def test_a_list_that_cannot_be_read_at_first_is_read_before_the_next_submission(send) -> None:
    place = Place("job-1", "job-2", listed=[LOST, job(OLDER)])
    submission = of(place)
    send(place, submission)
    assert send(place, submission, key="other") == "job-2"
    assert place.filters == [None, None]


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "tries"), [("text", 1), ("mapping", 2), ("none", 3)])
def test_the_form_of_labels_is_learned_and_remembered(send, form, tries) -> None:
    place = Place("job-1", "job-2", form=form)
    submission = of(place)
    assert send(place, submission) == "job-1"
    assert len(place.posts) == tries
    assert place.posts[-1] == (KEY, label_of(KEY, form))
    send(place, submission, key="other")
    assert place.posts[tries:] == [("other", label_of("other", form))]


def test_the_words_of_the_proxy_about_a_label_count_too(send) -> None:
    words = ApiError("'metadata' must be a string", status=422, reason="invalid_request")
    place = Place(words, "job-1", form="mapping")
    assert send(place, of(place, "mapping")) == "job-1"
    assert [label for _, label in place.posts] == [label_of(KEY, "mapping"), None]


def test_the_name_of_a_host_is_no_refusal_of_a_label(send) -> None:
    """Else the client would take the proxy for a service that remembers keys over restarts."""
    url = "POST http://metadata.example/api/v2/jobs: 400: bad"
    refusal = ApiError(url, status=400, reason="invalid_request")
    place = Place(refusal)
    with pytest.raises(ApiError, match="bad"):
        send(place, of(place))
    assert [label for _, label in place.posts] == [label_of(KEY, "text")]


def test_a_label_by_name_is_searched_by_the_server_first(send) -> None:
    label = label_of(KEY, "mapping")
    place = Place(LOST, listed=[job("x", {"a": "b"}), job("job-1", label)], form="mapping")
    assert send(place, of(place, "mapping", remembers=True)) == "job-1"
    assert place.filters == [label]


def test_dropped_labels_make_it_search_the_whole_list(send) -> None:
    place = Place(LOST, listed=[job("job-1", {})], own=("job-1",), marks={"job-1": KEY})
    place.form = "mapping"
    assert send(place, of(place, "mapping", remembers=True)) == "job-1"
    assert place.filters == [label_of(KEY, "mapping"), None]


@pytest.mark.parametrize("form", ["text", "mapping"])
def test_a_label_has_its_key(form) -> None:
    label = label_of(KEY, form)
    assert label is not None
    assert is_label_of(KEY, label)
    assert not is_label_of("other", label)
    assert key_in(label) == KEY


@pytest.mark.parametrize("label", [None, "", "text", f"x{EXTRA_DATA_KEY}=a", {}, {"a": "b"}])
def test_foreign_labels_have_no_key(label) -> None:
    assert key_in(label) is None


# -- without a list -------------------------------------------------------------------------------


def test_without_a_list_a_known_key_is_uncertain_at_once(send, clock) -> None:
    """As on Comfy Cloud."""
    place = Place(LOST, REUSED, listed=NO_LIST, form="none")
    assert "knows its key" in uncertain(lambda: send(place, of(place, "none", remembers=True)))
    assert clock.now < 1.0


def test_without_a_list_a_search_of_another_kind_may_find_it(send) -> None:
    place = Place(LOST, listed=NO_LIST, form="none")
    asked: list[str] = []

    def search(key: str, deadline: Deadline) -> str | None:
        asked.append(key)
        return "job-1" if len(asked) > 1 else None

    place.answers += [REUSED]
    assert send(place, of(place, "none", remembers=True, search=search)) == "job-1"
    assert set(asked) == {KEY}


def test_a_search_that_is_refused_keeps_nothing_from_being_sent_again(send) -> None:
    """The key may not be one of the older API."""
    place = Place(LOST, "job-1", listed=NO_LIST, form="none")

    def refuse(*_: Any, **__: Any) -> None:
        raise AuthenticationError("no such key", status=401)

    v1: Any = SimpleNamespace(json=refuse)
    search = JobSearch(v1, place)  # type: ignore[arg-type]
    assert send(place, of(place, "none", remembers=True, search=search)) == "job-1"
    assert len(place.posts) == 2


def test_a_server_without_a_list_is_not_the_proxy_so_it_remembers(send) -> None:
    place = Place(LOST, "job-1", listed=NO_LIST, form="none")
    assert send(place) == "job-1"


# -- the jobs of an earlier process --------------------------------------------------------------


def test_an_id_of_the_journal_counts_if_the_job_has_the_mark() -> None:
    place: Any = Place(own=("good", "foreign"), marks={"good": "a"})
    found = find_earlier(place, of(place), {"a": "good", "b": "foreign", "c": "gone"}, ())
    assert [one.prompt_id for one in found.records] == ["good"]
    assert found.records[0].extra_data == {EXTRA_DATA_KEY: "a"}
    assert "_meta" not in found.records[0].workflow["9"]
    assert set(found.doubts) == {"a", "b", "c"}


def test_an_unknown_id_is_found_by_its_label() -> None:
    place: Any = Place(
        listed=[job("job-1", label_of("a", "text"))], own=("job-1",), marks={"job-1": "a"}
    )
    found = find_earlier(place, of(place), {"a": "a", "next": None}, ())
    assert [one.prompt_id for one in found.records] == ["job-1"]
    assert found.doubts == {}


def test_a_job_that_the_journal_has_lost_is_found_by_its_label() -> None:
    place: Any = Place(
        listed=[job("job-1", label_of("next", "text"))], own=("job-1",), marks={"job-1": "next"}
    )
    found = find_earlier(place, of(place), {"next": None, "last": None}, ())
    assert [one.prompt_id for one in found.records] == ["job-1"]


@pytest.mark.parametrize(
    ("ended", "doubt"), [([OLDER], None), (["forgotten"], "restarted"), ([], "restarted")]
)
def test_an_absence_counts_if_the_proxy_knows_an_older_job(ended, doubt) -> None:
    place: Any = Place(listed=listed())
    doubts = find_earlier(place, of(place), {"a": "a"}, ended).doubts
    assert ("a" in doubts) is (doubt is not None)
    assert doubt is None or doubt in doubts["a"]


def test_an_absence_counts_on_a_service_that_remembers() -> None:
    place: Any = Place(listed=[], own=())
    found = find_earlier(place, of(place, "mapping", remembers=True), {"a": "a"}, ())
    assert found.doubts == {}


@pytest.mark.parametrize(
    "jobs",
    [
        [job(str(n), "others") for n in range(101)],  # the list is cut
        [job(str(n)) for n in range(21)],  # too many to look for the mark in all
        NO_LIST,
    ],
)
def test_an_absence_from_a_list_that_is_not_whole_proves_nothing(jobs) -> None:
    place: Any = Place(listed=jobs)
    assert "does not list" in find_earlier(place, of(place), {"a": "a"}, [OLDER]).doubts["a"]


def test_an_absence_from_a_list_that_says_that_there_is_more_proves_nothing() -> None:
    """However short it is."""

    class Cut(Place):
        def jobs(self, **options: Any) -> HostedJobs:
            return attrs.evolve(super().jobs(**options), truncated=True)

    place: Any = Cut(listed=[job("1", "others")])
    assert "does not list" in find_earlier(place, of(place), {"a": "a"}, [OLDER]).doubts["a"]
