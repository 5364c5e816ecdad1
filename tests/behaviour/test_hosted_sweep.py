"""``map`` and ``sweep`` over Comfy API v2: nothing runs twice, and nothing is lost silently."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from comfy_client import ComfyApi, ComfyPool, HostedApi, Sweep
from comfy_client.batch.grid import Grid
from comfy_client.batch.journal import Journal
from comfy_client.errors import JobInterrupted, ServerUnreachable, SubmitUncertain
from comfy_client.hosted.sending import label_of
from comfy_client.testing import ComfyServer
from comfy_client.testing.hosted.traps import PROXY, SERVERLESS
from comfy_client.workflow import Workflow
from tests.helpers.clients import outstanding, until
from tests.helpers.graphs import fresh_color
from tests.helpers.hosted import EMBEDDED, REAL, Hosted, before, embedded, picture
from tests.helpers.middle import Middle, lost
from tests.helpers.servers import add_test_content
from tests.helpers.sweeps import Victim, change

KEY = "9.filename_prefix"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "sweep.db"


@pytest.fixture
def api(hosted: Hosted) -> Iterator[HostedApi]:
    with HostedApi(hosted.url) as client:
        yield client


@pytest.fixture(params=[EMBEDDED, pytest.param(REAL, marks=pytest.mark.real)])
def fresh(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    """A proxy without earlier jobs, so that its list is complete."""
    if request.param == EMBEDDED:
        with embedded() as one:
            yield one
    else:
        with before(request.getfixturevalue("real_comfyui")) as one:
            yield one


@pytest.fixture
def place() -> Iterator[Hosted]:
    """A proxy of its own, which the test may break."""
    with embedded() as one:
        yield one


def names(count: int) -> list[str]:
    run = uuid.uuid4().hex[:8]
    return [f"{run}p{number}" for number in range(count)]


def key_of(journal: Path, graph: dict[str, Any], name: str) -> str:
    """The key under which a journal's sweep submits a point for the first time."""
    with Journal(journal) as file:
        digest = Grid(Workflow(graph), {KEY: [name]}).digest(0)
        return str(uuid.uuid5(file.id, f"{digest}/1/1"))


def note_sent(api: ComfyApi, journal: Path, graph: dict[str, Any], name: str) -> str:
    """Write what a process has written that was killed while it submitted a point."""
    key = key_of(journal, graph, name)
    with Journal(journal) as file:
        digest = Grid(Workflow(graph), {KEY: [name]}).digest(0)
        file.note_sent((digest, 1), api.host, key, 1, time.time())
    return key


def forget(journal: Path, what: str = "", where: str = "1") -> None:
    """Make a journal that of a process that was killed before its prompts had ended."""
    change(journal, f"UPDATE points SET result = NULL, error = NULL{what} WHERE {where}")


def made(rows: Sweep) -> list[str | None]:
    return [row.result.images[0].filename if row.result else None for row in rows]


def test_jobs_whose_ids_are_in_the_journal_are_taken_up_by_another_process(
    api, hosted, journal
) -> None:
    """They are not submitted again, whether they have ended since or not."""
    graph, values = picture("s"), names(3)
    first = api.sweep(graph, {KEY: values}, journal=journal)
    forget(journal)
    with HostedApi(hosted.url) as other:
        rows = other.sweep(graph, {KEY: values}, journal=journal)
    assert made(rows) == made(first) == [f"{name}_00001_.png" for name in values]
    assert [row.prompt_id for row in rows] == [row.prompt_id for row in first]
    assert [hosted.runs(name) for name in values] == [1, 1, 1]


def test_jobs_whose_ids_are_unknown_are_found_by_their_labels(api, hosted, journal) -> None:
    """The process was killed between the submission and its answer."""
    graph, values = picture("s"), names(2)
    first = api.sweep(graph, {KEY: values}, journal=journal)
    key = key_of(journal, graph, values[1])
    forget(journal, f", prompt_id = '{key}'", f"prompt_id = '{first[1].prompt_id}'")
    with HostedApi(hosted.url) as other:
        rows = other.sweep(graph, {KEY: values}, journal=journal)
    assert rows[1].prompt_id == first[1].prompt_id
    assert [hosted.runs(name) for name in values] == [1, 1]


def test_a_job_that_never_arrived_is_submitted_under_the_same_key(fresh, journal) -> None:
    """The server lists an older job of the sweep, so it has not forgotten this one."""
    graph, values = picture("s"), names(2)
    with HostedApi(fresh.url) as api:
        api.sweep(graph, {KEY: values[:1]}, journal=journal)
        key = note_sent(api, journal, graph, values[1])
    with HostedApi(fresh.url) as other:
        rows = other.sweep(graph, {KEY: values}, journal=journal)
        labels = {job.id: job.label for job in other.hosted.jobs().jobs}
    assert labels[rows[1].prompt_id] == label_of(key, "text")
    assert [fresh.runs(name) for name in values] == [1, 1]


def test_a_job_that_the_journal_has_lost_is_found(api, hosted, journal) -> None:
    """The journal is a copy from before."""
    graph, values = picture("s"), names(2)
    first = api.sweep(graph, {KEY: values[:1]}, journal=journal)
    before = journal.read_bytes()
    second = api.sweep(graph, {KEY: values}, journal=journal)
    journal.write_bytes(before)
    with HostedApi(hosted.url) as other:
        rows = other.sweep(graph, {KEY: values}, journal=journal)
    assert [row.prompt_id for row in rows] == [first[0].prompt_id, second[1].prompt_id]
    assert [hosted.runs(name) for name in values] == [1, 1]


def test_a_proxy_that_was_restarted_leaves_its_jobs_uncertain(place, journal) -> None:
    """It knows neither keys nor workflows any more; the next call is told so by the journal."""
    graph, values = picture("s"), names(3)
    with HostedApi(place.url) as api:
        api.sweep(graph, {KEY: values[:2]}, journal=journal)
        key = note_sent(api, journal, graph, values[2])
        forget(journal, where=f"rowid = (SELECT min(rowid) FROM points) OR prompt_id = '{key}'")
    place.gateway.restart()
    posts = len(posted(place))
    for _ in range(2):
        with HostedApi(place.url) as api:
            rows = api.sweep(graph, {KEY: values}, journal=journal)
        assert [type(row.error) for row in rows] == [SubmitUncertain, type(None), SubmitUncertain]
        assert "does not tell which workflow" in str(rows[0].error)
        assert "restarted" in str(rows[2].error)
        assert rows[2].error.prompt_id == key
    assert len(posted(place)) == posts


def posted(place: Hosted) -> list[Any]:
    requests = list(place.behind.requests)
    return [one for one in requests if (one.method, one.path) == ("POST", "/v2/jobs")]


def test_without_a_list_an_unknown_id_is_uncertain_and_a_known_one_is_not(journal) -> None:
    """As on Comfy Cloud."""
    graph, values = picture("s"), names(2)
    with ComfyServer(hosted="cloud") as server:
        add_test_content(server)
        with HostedApi(server.url) as api:
            api.sweep(graph, {KEY: values[:1]}, journal=journal)
            key = note_sent(api, journal, graph, values[1])
            change(journal, "UPDATE points SET result = NULL")
        with HostedApi(server.url) as api:
            rows = api.sweep(graph, {KEY: values}, journal=journal)
            assert made(rows) == [f"{values[0]}_00001_.png", None]
            assert isinstance(rows[1].error, SubmitUncertain)
            assert "does not list it" in str(rows[1].error)
            assert rows[1].prompt_id == key
            # Whoever knows better says so.
            rows = api.sweep(graph, {KEY: values}, journal=journal, retry_failed=True)
            assert made(rows)[1] == f"{values[1]}_00001_.png"
        assert len(posted(Hosted(server.url, server))) == 2 * 3  # two forms of labels were refused


def test_a_gateway_that_drops_labels_is_searched_by_marks(journal) -> None:
    graph, values = picture("s"), names(1)
    traps = attrs.evolve(SERVERLESS, labels="dropped")
    with ComfyServer(hosted="serverless", traps=traps) as server:
        add_test_content(server)
        with HostedApi(server.url) as api:
            [first] = api.sweep(graph, {KEY: values}, journal=journal)
            key = key_of(journal, graph, values[0])
            forget(journal, f", prompt_id = '{key}'")
            [row] = api.sweep(graph, {KEY: values}, journal=journal)
            assert row.prompt_id == first.prompt_id


def test_the_job_of_a_stranger_fills_no_row(place, journal) -> None:
    """The journal names a job that was not submitted by its sweep."""
    graph, values = picture("s"), names(1)
    with HostedApi(place.url) as api:
        api.sweep(graph, {KEY: values}, journal=journal)
        theirs = api.run(picture("theirs")).prompt_id
        forget(journal, f", prompt_id = '{theirs}'")
        [row] = api.sweep(graph, {KEY: values}, journal=journal)
        assert isinstance(row.error, SubmitUncertain)
        assert api.cancel_job(theirs) is False


def test_the_first_submission_may_be_uncertain_and_the_sweep_goes_on(place) -> None:
    """Its row says so; the others run."""
    graph, values = picture("s"), names(3)
    with HostedApi(place.url, patience=0.5) as api, place.gateway.trap(upstream="lost"):
        rows = []
        uncertain = api.sweep(graph, {KEY: values[:1]}, on_row=rows.append)
    assert isinstance(uncertain[0].error, SubmitUncertain)
    assert uncertain == Sweep(rows)
    until(lambda: place.runs(values[0]) == 1)


def test_a_pool_takes_up_the_jobs_of_another_process(fresh, journal) -> None:
    graph, values = picture("s"), names(4)
    with HostedApi(fresh.url) as api, ComfyPool([api]) as pool:
        first = pool.sweep(graph, {KEY: values[:3]}, journal=journal)
    key = key_of(journal, graph, values[0])
    forget(journal, f", prompt_id = '{key}'", f"prompt_id = '{first[0].prompt_id}'")
    forget(journal, where=f"prompt_id = '{first[1].prompt_id}'")
    with HostedApi(fresh.url) as api:
        key = note_sent(api, journal, graph, values[3])
        with ComfyPool([api]) as pool:
            rows = pool.sweep(graph, {KEY: values}, journal=journal, timeout=60)
        labels = {job.id: job.label for job in api.hosted.jobs().jobs}
    assert [row.prompt_id for row in rows][:3] == [row.prompt_id for row in first]
    assert labels[rows[3].prompt_id] == label_of(key, "text")
    assert [fresh.runs(name) for name in values] == [1, 1, 1, 1]


def test_uncertain_rows_of_a_pool_are_not_moved(place, journal) -> None:
    """Without moving it to the other server."""
    graph, values = picture("s"), names(2)
    with HostedApi(place.url) as api, ComfyServer() as other:
        add_test_content(other)
        api.sweep(graph, {KEY: values[:1]}, journal=journal)
        note_sent(api, journal, graph, values[1])
        place.gateway.restart()
        for _ in range(2):
            with ComfyPool([api, other.url]) as pool:
                rows = pool.sweep(graph, {KEY: values}, journal=journal, timeout=60)
            assert isinstance(rows[1].error, SubmitUncertain)


@pytest.mark.posix("forks")
@pytest.mark.long
def test_killed_at_every_step_in_turn_no_point_runs_twice(place, journal) -> None:
    """Before, in and after each write, before and after each POST.

    Only the first point can be uncertain, as then there is no older job that the proxy lists.
    """
    values = names(2)
    urls = f"v2:{place.url}"
    with Victim(urls, journal, picture("s", color=fresh_color()), {KEY: values}) as victim:
        ran = dict.fromkeys(values, 0)
        for step in itertools.count(1):
            journal.unlink(missing_ok=True)
            if victim.tell(f"step {step}") is not None:
                break
            rows = victim.tell("run")
            for name in values:
                runs, ran[name] = place.runs(name) - ran[name], place.runs(name)
                assert runs <= 1, (step, name)
            assert len(rows) == 2 or (step <= 8 and len(rows) == 1), step
    assert step == 2 * 11 + 1


# -- map ------------------------------------------------------------------------------------------


def test_a_lost_answer_in_map_is_no_second_run(place) -> None:
    values = names(3)
    with Middle(int(place.url.rpartition(":")[2])) as middle, HostedApi(middle.url) as api:
        api.run(picture("before"))
        with middle.rule("POST", "/api/v2/jobs", lost, times=1):
            results = list(api.map([picture(name) for name in values]))
    assert [one.images[0].filename for one in results] == [f"{name}_00001_.png" for name in values]
    assert [place.runs(name) for name in values] == [1, 1, 1]


def test_map_goes_on_after_an_uncertain_submission_if_errors_are_kept(place) -> None:
    values = names(3)
    with HostedApi(place.url, patience=0.3) as api:
        api.run(picture("before"))

        def workflows() -> Iterator[dict[str, Any]]:
            with place.gateway.trap(upstream="lost"):
                yield picture(values[0])
            yield picture(values[1])

        found = list(api.map(workflows(), on_error="keep", in_flight=1, ordered=True))
    assert isinstance(found[0], SubmitUncertain)
    assert found[1].images
    assert [place.runs(name) for name in values] == [1, 1, 0]


def test_a_server_that_is_away_for_a_while_is_waited_for(place) -> None:
    """In the middle of a map; nothing is lost, and nothing runs twice."""
    values = names(4)
    with HostedApi(place.url) as api:
        api.run(picture("before"))
        found = []
        for number, result in enumerate(api.map(map(picture, values), in_flight=1, patience=60)):
            found.append(result.images[0].filename)
            if number == 1:
                place.gateway.kill()
                place.behind.gateway.start()
    assert found == [f"{name}_00001_.png" for name in values]
    assert [place.runs(name) for name in values] == [1, 1, 1, 1]


def test_a_server_that_stays_away_ends_the_call_after_its_patience(place) -> None:
    with HostedApi(place.url, patience=0.5) as api:
        results = api.map([picture("a"), picture("b")], in_flight=1, patience=0.5)
        next(results)
        place.gateway.kill()
        with pytest.raises(ServerUnreachable):
            next(results)


def test_pending_jobs_are_taken_back_and_the_running_one_goes_on() -> None:
    values = names(3)
    with embedded(traps=attrs.evolve(PROXY, cancel_lies=False)) as place:
        with HostedApi(place.url) as api:
            seconds = (0.1, 5.0, 0.1)  # the second still runs when the third has been taken back
            results = api.map(map(picture, values, seconds), in_flight=3)
            next(results)
            left = outstanding(api)
            until(lambda: left[0].status == "running")
            results.close()
            assert left[0].result(60).images
            assert isinstance(left[1].exception(60), JobInterrupted)
        assert [place.runs(name) for name in values] == [1, 1, 0]
