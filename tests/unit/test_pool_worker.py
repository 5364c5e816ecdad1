"""The thread of a pool, which makes the changes that users ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from comfy_client.pool.dispatcher import Worker
from tests.helpers.clients import until
from tests.helpers.ctrl_c import each_interrupt


class Owner:
    """An owner for which nothing is done."""

    is_over = False

    def tick(self) -> None:
        """Do nothing."""

    def finish(self) -> bool:
        """Return whether the thread is to end."""
        return self.is_over

    def has_lock(self) -> bool:
        """Return that no lock is held."""
        return False


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def worker(owner: Owner) -> Iterator[Worker[Owner]]:
    made = Worker(owner, Owner.tick, Owner.finish, Owner.has_lock)
    made.start()
    yield made
    owner.is_over = True


def name_of_thread() -> str:
    return threading.current_thread().name


def test_a_ctrl_c_at_any_point_leaves_the_changes_to_the_thread(worker: Worker[Owner]) -> None:
    """After one inside ``Thread.is_alive``, Python 3.11 and 3.12 take the thread for ended."""
    came = 0
    for _ in each_interrupt(lambda: worker.ask(name_of_thread)):
        came += 1
        assert worker.ask(name_of_thread) == "comfy-pool-dispatcher"
    assert came > 5


def test_once_the_thread_has_ended_the_caller_makes_the_change(
    worker: Worker[Owner], owner: Owner
) -> None:
    owner.is_over = True
    until(lambda: worker.ask(name_of_thread) == name_of_thread())
