"""Faults on the way to a hosted ComfyUI: the right result or SubmitUncertain, and never two runs.

They are played on the embedded proxy and, with ``--real``, on the real one; ``python -m
tests.bench.hosted_faults`` plays the same beside another client, with a clock.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import blinker
import pytest
from PIL import Image

from comfy_client import HostedApi, Result, SubmitUncertain
from comfy_client.errors import ComfyError
from tests.helpers import hosted_faults as play
from tests.helpers.clients import Heard, flush, quickly, until
from tests.helpers.graphs import fresh_color
from tests.helpers.hosted import EMBEDDED, REAL, embedded, picture
from tests.helpers.hosted_faults import JOBS, Scene, real_scene, scene_of
from tests.helpers.middle import answer, first_of_each, lost, lost_after

LIMIT = 180.0
SECONDS = 1.5
BOTH = [EMBEDDED, pytest.param(REAL, marks=pytest.mark.real)]


@pytest.fixture(scope="module", params=BOTH)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A place whose proxy forgets everything when it ends."""
    with _scene(request, None) as made:
        yield made


@pytest.fixture(scope="module", params=BOTH)
def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """A place whose proxy keeps its state."""
    with _scene(request, tmp_path_factory.mktemp("state")) as made:
        yield made


def _scene(request: pytest.FixtureRequest, state: Path | None):  # type: ignore[no-untyped-def]
    if request.param == REAL:
        return real_scene(request.getfixturevalue("real_comfyui"), state)
    return play.embedded_scene(keeps_state=state is not None)


@pytest.fixture
def api(scene: Scene) -> Iterator[HostedApi]:
    """A client that has run a job, by way of everything that can break."""
    with HostedApi(scene.url, namespace=blinker.Namespace()) as client:
        client.run(picture(f"first_{uuid.uuid4().hex}"), timeout=LIMIT)
        yield client


def outcome(api: HostedApi, scene: Scene, fault: play.Fault) -> tuple[str, int, list[str]]:
    """Run a job under a fault: how it ended, how often it ran, and the end events it had."""
    name, color = f"fault_{uuid.uuid4().hex[:12]}", fresh_color()
    heard = Heard(api)
    with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
        meanwhile = fault(scene, stack)
        run = thread.submit(api.run, picture(name, SECONDS, color), timeout=LIMIT)
        if meanwhile:
            meanwhile()
        error = run.exception()
    flush(api)
    scene.until_idle()
    ends = [event.name for event in heard.ends()]
    if error is None:
        told = "right" if _color(run.result()) == color else "wrong"
    else:
        assert isinstance(error, ComfyError), error
        told = type(error).__name__
    return told, scene.place.runs(name), ends


def _color(result: Result) -> int:
    with Image.open(io.BytesIO(result.image.bytes(timeout=LIMIT))) as image:
        red, green, blue = image.convert("RGB").tobytes()[:3]
    return red << 16 | green << 8 | blue


@pytest.mark.parametrize(
    "fault",
    [
        play.cut,
        play.away,
        play.dark,
        play.bad_gateway,
        play.bad_submit,
        play.bad_answer,
        play.lost_answer,
        play.late_answer,
        play.server_away,
        play.killed,
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_job_comes_through(api: HostedApi, scene: Scene, fault: play.Fault) -> None:
    """With its own picture, after one run and one end event."""
    assert outcome(api, scene, fault) == ("right", 1, ["execution_success"])


def test_a_job_that_the_proxy_itself_has_lost_is_uncertain(scene: Scene) -> None:
    """ComfyUI runs it once, no list has it, and that is told long before patience is over."""
    with HostedApi(scene.url, patience=1e4, namespace=blinker.Namespace()) as api, quickly(LIMIT):
        told, runs, _ = outcome(api, scene, play.lost_behind)
    assert (told, runs) == ("SubmitUncertain", 1)


@pytest.mark.parametrize("fault", [play.lost_answer, play.bad_submit])
def test_without_a_list_a_lost_answer_is_uncertain_at_once(fault: play.Fault) -> None:
    """As on Comfy Cloud; a submission that never arrived is accepted under the same key."""
    with (
        embedded(hosted="cloud", credentials="a-key") as place,
        scene_of(place) as scene,
        HostedApi(scene.url, "a-key", patience=1e4, namespace=blinker.Namespace()) as api,
        quickly(LIMIT),
    ):
        api.run(picture("first"), timeout=LIMIT)  # it learns that there are no labels
        told, runs, _ = outcome(api, scene, fault)
    assert (told, runs) == ("right" if fault is play.bad_submit else "SubmitUncertain", 1)


def test_a_lost_answer_of_the_first_job_of_a_proxy_is_raised_soon() -> None:
    """Nothing shows whether the proxy was restarted, so it is not sent again."""
    with (
        play.embedded_scene() as scene,
        HostedApi(scene.url, patience=1e4, namespace=blinker.Namespace()) as api,
        quickly(LIMIT),
    ):
        assert outcome(api, scene, play.bad_submit)[:2] == ("SubmitUncertain", 0)
        assert outcome(api, scene, play.lost_answer) == ("right", 1, ["execution_success"])


def test_a_restart_that_forgets_keys_makes_a_lost_answer_uncertain(
    api: HostedApi, scene: Scene
) -> None:
    """The same key would be accepted again, so it is not sent."""
    told, runs, _ = outcome(api, scene, play.lost_and_killed)
    assert (told, runs) == ("SubmitUncertain", 1)


def test_a_restart_that_keeps_keys_costs_nothing(lasting: Scene) -> None:
    """The job is found under its label."""
    with HostedApi(lasting.url, namespace=blinker.Namespace()) as api:
        assert outcome(api, lasting, play.lost_and_killed) == ("right", 1, ["execution_success"])
        assert outcome(api, lasting, play.killed) == ("right", 1, ["execution_success"])


def test_uncertain_names_the_key_by_which_to_look(scene: Scene) -> None:
    """It is the Idempotency-Key, the mark and the label of what was sent."""
    with HostedApi(scene.url, patience=1.0, namespace=blinker.Namespace()) as api:
        api.run(picture(f"first_{uuid.uuid4().hex}"), timeout=LIMIT)
        with scene.middle.rule("*", "*", answer(502)), pytest.raises(SubmitUncertain) as caught:
            api.run(picture("never"), timeout=LIMIT)
    sent = scene.middle.posted(JOBS)[-1]
    assert caught.value.prompt_id == sent.headers["Idempotency-Key"]
    assert caught.value.prompt_id in str(caught.value)
    marks = [node.get("_meta", {}).get("comfy_client") for node in sent.json["workflow"].values()]
    assert [mark for mark in marks if mark] == [caught.value.prompt_id]
    assert scene.place.runs("never") == 0


def test_of_twenty_lost_answers_none_is_lost_or_doubled(api: HostedApi, scene: Scene) -> None:
    """Each job is found again under its key."""
    stem = uuid.uuid4().hex[:12]
    names = [f"lost_{stem}n{number}n" for number in range(20)]
    with scene.middle.rule("POST", JOBS, first_of_each(lost)):
        results = [api.run(picture(name), timeout=LIMIT) for name in names]
    assert [result.image.filename for result in results] == [f"{n}_00001_.png" for n in names]
    assert [scene.place.runs(name) for name in names] == [1] * 20


def test_a_sweep_finds_what_an_earlier_call_may_have_submitted(
    scene: Scene, tmp_path: Path
) -> None:
    """Its answer never came, and nothing else did; the next call finds it by its key."""
    name, journal = f"sweep_{uuid.uuid4().hex[:12]}", tmp_path / "journal"
    grid = {"EmptyImage.color": [fresh_color(), fresh_color()]}
    with HostedApi(scene.url, patience=1.0, namespace=blinker.Namespace()) as api:
        api.run(picture(f"first_{name}"), timeout=LIMIT)
        with ExitStack() as stack:

            def hold_back() -> None:
                stack.enter_context(scene.middle.rule("*", "*", answer(502)))

            stack.enter_context(scene.middle.rule("POST", JOBS, lost_after(hold_back), times=1))
            with contextlib.suppress(ComfyError):
                api.sweep(picture(name), grid, journal=journal, in_flight=1, patience=1.0)
    until(lambda: scene.place.runs(name) == 1)
    with HostedApi(scene.url, namespace=blinker.Namespace()) as api:
        rows = api.sweep(picture(name), grid, journal=journal, retry_failed=True)
        assert [_color(row.result) for row in rows if row.result] == grid["EmptyImage.color"]
    assert scene.place.runs(name) == 2
