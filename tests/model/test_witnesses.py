"""Jobs between socket and HTTP, in any order of what may happen: each ends once, and rightly.

``--hypothesis-profile=thorough`` tries ten times as many orders, and ``--soak`` new ones for as
long as it is told.  What hypothesis prints of one that fails is the body of a test with the fixture
``state``, in place of its first line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from comfy_client.transport.websocket import State
from tests.conftest import examples

from .little_server import FAULTS, VERSIONS
from .witnesses import Scene

#: What others do, and at which point.
MEANWHILE = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(Scene.SMALL)), max_size=5)
FATES = st.sampled_from(["ok", "ok", "fails", "cached"])
WHICH = st.integers(0, 3)
UNREAD = st.none() | st.sampled_from(["execution_start", "execution_cached", "executed", "status"])
POST_FAULTS = (*FAULTS, "late", "ctrl-c", "ctrl-c unheard", "ctrl-c late")


class Witnesses(RuleBasedStateMachine):
    """Any order of what :class:`Scene` can do."""

    scene: Scene

    def __init__(self) -> None:
        super().__init__()
        self.closing = ExitStack()
        self.is_well = False

    @initialize(
        version=st.sampled_from([*VERSIONS]),
        lively=st.booleans(),
        dials=st.booleans(),
        fates=st.lists(FATES, min_size=1, max_size=2),
    )
    def begin(self, version: str, lively: bool, dials: bool, fates: Any = ()) -> None:
        self.dials = dials
        self.scene = self.closing.enter_context(Scene.opened(version, lively=lively))
        self.scene.dial()
        for fate in fates:
            self.scene.submit(fate)
        self.is_well = True

    @precondition(lambda self: len(self.scene.mine) < 4)
    @rule(
        fate=FATES,
        fault=st.none() | st.sampled_from(POST_FAULTS),
        resubmit=st.booleans(),
        meanwhile=MEANWHILE,
    )
    def submit(self, **how: Any) -> None:
        self.scene.submit(**how)

    @precondition(lambda self: self.scene.server.runs)
    @rule(which=WHICH, by_mark=st.booleans(), checked=st.booleans(), meanwhile=MEANWHILE)
    def attach(self, **how: Any) -> None:
        self.scene.attach(**how)

    @precondition(lambda self: self.scene.mine)
    @rule(which=WHICH, force=st.booleans(), meanwhile=MEANWHILE)
    def cancel(self, **how: Any) -> None:
        self.scene.cancel(**how)

    @precondition(lambda self: any(mine.job.done() for mine in self.scene.mine))
    @rule()
    def drop_jobs(self) -> None:
        self.scene.drop_jobs()

    @precondition(lambda self: self.scene.server.is_busy)
    @rule(count=st.integers(1, 8))
    def steps(self, count: int) -> None:
        self.scene.steps(count)

    @precondition(lambda self: self.scene.server.is_busy)
    @rule(count=st.integers(1, 12), unread=UNREAD, meanwhile=MEANWHILE)
    def flow(self, **how: Any) -> None:
        self.scene.flow(**how)

    @precondition(lambda self: self.scene.server.is_busy and self.scene.mine)
    @rule(unread=UNREAD)
    def run_one(self, unread: str | None) -> None:
        self.scene.flow(12, unread=unread)

    @precondition(lambda self: self.scene.server.said_last)
    @rule(kind=st.none() | st.sampled_from(["execution_success", "execution_error"]))
    def say_again(self, kind: str | None) -> None:
        self.scene.say_again(kind)

    @precondition(lambda self: self.scene.line.state is State.CONNECTED)
    @rule(steps=st.integers(1, 6), notices=st.booleans())
    def blink(self, **how: Any) -> None:
        self.scene.blink(**how)

    @rule(fate=FATES)
    def submit_foreign(self, fate: Any) -> None:
        self.scene.submit_foreign(fate)

    @precondition(lambda self: self.scene.server.pending)
    @rule(which=WHICH)
    def delete_by_others(self, which: int) -> None:
        self.scene.delete_by_others(which)

    @precondition(lambda self: self.scene.server.runs)
    @rule()
    def restart(self) -> None:
        self.scene.restart()

    @precondition(lambda self: not self.scene.server.faults)
    @rule(fault=st.sampled_from(FAULTS), count=st.integers(1, 10))
    def refuse(self, fault: Any, count: int) -> None:
        self.scene.refuse(*[fault] * count)

    @precondition(lambda self: self.scene.line.socket and self.scene.line.socket.inbox)
    @rule(count=st.integers(1, 6), unread=UNREAD, meanwhile=MEANWHILE)
    def hear(self, **how: Any) -> None:
        self.scene.hear(**how)

    @precondition(lambda self: self.scene.line.state is State.CONNECTED)
    @rule(notices=st.booleans(), meanwhile=MEANWHILE)
    def cut(self, **how: Any) -> None:
        self.scene.cut(**how)

    @precondition(lambda self: self.scene.line.socket is None)
    @rule(meanwhile=MEANWHILE)
    def dial(self, **how: Any) -> None:
        self.scene.dial(**how)

    @precondition(lambda self: self.scene.server.half_dead)
    @rule()
    def notice(self) -> None:
        self.scene.notice()

    @precondition(lambda self: self.scene.line.generation > 1 and self.scene.line.socket)
    @rule(meanwhile=MEANWHILE)
    def renew(self, **how: Any) -> None:
        self.scene.renew(**how)

    @precondition(lambda self: self.scene.mine and not self.scene.is_holding)
    @rule()
    def hold_verdict(self) -> None:
        self.scene.hold_verdict()

    @precondition(lambda self: self.scene.is_holding)
    @rule()
    def let_go(self) -> None:
        self.scene.let_go()

    @precondition(lambda self: self.scene.mine)
    @rule(meanwhile=MEANWHILE)
    def ask(self, **how: Any) -> None:
        self.scene.ask(**how)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 30.0]), asleep=st.booleans())
    def wait(self, **how: Any) -> None:
        self.scene.wait(**how)

    @invariant()
    def check(self) -> None:
        if hasattr(self, "scene"):
            self.is_well = False
            self.scene.check()
            self.is_well = True

    def teardown(self) -> None:
        with self.closing:
            if self.is_well:
                self.is_well = False
                self.scene.finish(dials=self.dials)


@pytest.fixture(autouse=True)
def _draws_depend_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same examples in each run; hypothesis would try constants of loaded modules."""
    provider = providers.HypothesisProvider
    monkeypatch.setattr(provider, "_maybe_draw_constant", lambda *_, **__: None, raising=False)


SETTINGS = settings(
    deadline=None,
    stateful_step_count=30,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

TestWitnesses = pytest.mark.timeout(600)(Witnesses.TestCase)  # a failure takes long to make short
TestWitnesses.settings = settings(SETTINGS, max_examples=examples(300), derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_no_order_of_witnesses_ends_a_job_wrongly(request: pytest.FixtureRequest) -> None:
    """Random orders, for ``--soak-seconds``."""
    end = time.monotonic() + request.config.getoption("--soak-seconds")
    while time.monotonic() < end:
        run_state_machine_as_test(Witnesses, settings=settings(SETTINGS, database=None))


# -- orders that ended a job wrongly once --------------------------------------------------------


@pytest.fixture
def state() -> Iterator[Witnesses]:
    """What an order that is kept plays on."""
    machine = Witnesses()
    with machine.closing:
        yield machine
        machine.teardown()


def test_a_prompt_that_ends_before_its_id_is_known_ends_once(state: Witnesses) -> None:
    """Ctrl-C came before the answer, and the server has chosen another id."""
    state.begin(version="0.2", lively=False, dials=True)
    state.cut(notices=True, meanwhile=[])
    state.submit(fate="fails", fault="ctrl-c", resubmit=False, meanwhile=[])


def test_a_prompt_cancelled_while_it_is_looked_up_is_not_resubmitted(state: Witnesses) -> None:
    state.begin(version="0.3.75", lively=False, dials=False)
    state.submit(fate="ok", fault="unanswered", resubmit=True, meanwhile=[(3, "cancel")])
    assert len(state.scene.server.posts) == 1


def test_a_prompt_that_arrives_late_is_not_resubmitted(state: Witnesses) -> None:
    """The last look-up comes after the time for which it must not have been found."""
    state.begin(version="0.3.75", lively=False, dials=True)
    state.submit(fate="ok", fault="late", resubmit=True, meanwhile=[])
    assert len(state.scene.server.posts) == 1


def test_jobs_of_one_prompt_end_alike_though_it_is_cancelled_before_the_answer(
    state: Witnesses,
) -> None:
    """Another thread saw it in the queue of an old server, attached to it, and cancelled it."""
    state.begin(version="2024-03", lively=False, dials=False)
    others = [(3, "attach"), (12, "cancel")]
    state.submit(fate="ok", fault=None, resubmit=False, meanwhile=others)


def test_a_published_end_stays_for_a_submission_found_later(state: Witnesses) -> None:
    """Another thread had attached to it, and the server forgot it before it could be asked."""
    state.begin(version="2024-03", lively=True, dials=False, fates=["ok", "ok"])
    state.blink(notices=False, steps=1)
    state.renew(meanwhile=[])
    state.refuse(count=8, fault="502")
    state.submit(fate="ok", fault="unanswered", meanwhile=[(3, "attach")], resubmit=False)
    state.restart()
