"""``Budget``: who holds what in the child of a fork."""

from __future__ import annotations

import contextlib
import os

import pytest

from comfy_client import ComfyApi
from comfy_client.budget import Budget
from comfy_client.event_queue import EventQueue
from comfy_client.events import UnknownEvent
from tests.helpers.events import drained


class Stuck:
    """Holds something behind a lock that a thread of the parent has taken for ever."""

    nbytes = own = 1 << 30

    def give_way(self, nbytes: int, rank: int) -> int:
        raise AssertionError("asked in the child of a fork, where it would hang")


def test_after_a_fork_nobody_waits_for_what_the_parents_threads_held() -> None:
    """Their frames live on in the child, and so do queues with locks that nobody gives back."""
    budget, stuck = Budget(1 << 20), Stuck()
    budget.join(stuck)
    events = EventQueue(budget=budget)
    events.put(UnknownEvent(name="before", nbytes=900))
    budget.after_fork()
    assert budget.used == 0
    events.reset()
    after = UnknownEvent(name="after", nbytes=900)
    events.put(after)
    assert budget.relieve()
    assert budget.used >= 900  # of a queue that is used again
    assert drained(events) == [after]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks only")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_child_of_a_fork_has_a_budget_of_its_own() -> None:
    """A client that was forked asks no holder of its parent."""
    with contextlib.closing(ComfyApi("http://127.0.0.1:1")) as api:
        stuck = Stuck()
        api._budget.join(stuck)
        pid = os.fork()
        if pid == 0:
            try:
                api._budget.relieve()
                os._exit(0)
            except BaseException:  # whatever it is, the parent tells
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
