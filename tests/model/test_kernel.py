"""The scheduler of the model: what holds for real threads, holds for its own."""

from __future__ import annotations

import queue
from concurrent.futures import Future

import pytest

from comfy_client import runtime
from tests.model.kernel import START, Deadlock, Kernel, TooLong


def order_of(seed: int) -> list[str]:
    """Three threads that note their turns."""
    kernel, seen = Kernel(seed, preempt=0.5), []

    def main() -> None:
        def note(name: str) -> None:
            for _ in range(5):
                seen.append(name)
                kernel.pause()

        threads = [runtime.Thread(target=note, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    kernel.run(main)
    return seen


def test_a_seed_decides_on_the_order() -> None:
    assert order_of(1) == order_of(1)
    assert len({tuple(order_of(seed)) for seed in range(20)}) > 10


def test_time_passes_only_while_all_wait() -> None:
    kernel = Kernel(1)

    def main() -> float:
        thread = runtime.Thread(target=lambda: runtime.sleep(3600.0))
        thread.start()
        assert runtime.monotonic() < START + 1
        runtime.sleep(10.0)
        assert thread.is_alive()
        thread.join()
        return runtime.monotonic() - START

    assert kernel.run(main) == pytest.approx(3600.0, abs=0.01)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition"])
def test_a_lock_has_one_owner(kind: str, seed: int) -> None:
    kernel, inside = Kernel(seed, preempt=0.5), []

    def main() -> None:
        lock = getattr(runtime, kind)()

        def work() -> None:
            for _ in range(5):
                with lock:
                    inside.append(1)
                    assert len(inside) == 1
                    kernel.pause()
                    runtime.sleep(0.1)
                    inside.pop()

        threads = [runtime.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    kernel.run(main)


@pytest.mark.parametrize("seed", range(20))
def test_a_condition_notifies_its_waiters(seed: int) -> None:
    kernel = Kernel(seed, preempt=0.5)

    def main() -> list[int]:
        changed, items, taken = runtime.Condition(), [], []

        def take() -> None:
            with changed:
                changed.wait_for(lambda: items)
                taken.append(items.pop())

        threads = [runtime.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(3):
            with changed:
                items.append(number)
                changed.notify_all()
        for thread in threads:
            thread.join()
        with changed:
            assert not changed.wait(5.0)
        return taken

    assert sorted(kernel.run(main)) == [0, 1, 2]


def test_waits_end_by_their_timeouts() -> None:
    kernel = Kernel(1)

    def main() -> float:
        lock = runtime.Lock()
        lock.acquire()
        assert not lock.acquire(timeout=1.0)
        assert not lock.acquire(blocking=False)
        assert not runtime.Event().wait(1.0)
        with pytest.raises(queue.Empty):
            runtime.SimpleQueue().get(timeout=1.0)
        with pytest.raises(TimeoutError):
            Future[int]().result(1.0)
        return runtime.monotonic() - START

    assert kernel.run(main) == pytest.approx(4.0, abs=0.01)


def test_a_future_ends_the_wait_of_another_thread() -> None:
    kernel = Kernel(1)

    def main() -> int:
        future: Future[int] = Future()
        runtime.Thread(target=lambda: (runtime.sleep(5.0), future.set_result(7))).start()
        return future.result()

    assert kernel.run(main) == 7


def test_threads_that_wait_for_each_other_are_a_deadlock() -> None:
    def main() -> None:
        runtime.Event().wait()

    with pytest.raises(Deadlock, match="main:"):
        Kernel(1).run(main)


def test_a_loop_without_end_is_noticed() -> None:
    def main() -> None:
        while True:
            runtime.sleep(1.0)

    with pytest.raises(TooLong):
        Kernel(1, seconds=100.0).run(main)
    with pytest.raises(TooLong):
        Kernel(1, steps=100).run(main)


def test_an_error_that_ends_a_thread_fails_the_run() -> None:
    kernel = Kernel(1)

    def fail() -> None:
        raise ValueError("a defect")

    def main() -> None:
        runtime.Thread(target=fail).start()
        runtime.sleep(1.0)

    with pytest.raises(ValueError, match="a defect"):
        kernel.run(main)


def test_an_interrupt_ends_a_wait_of_the_main_thread() -> None:
    kernel = Kernel(1)

    def main() -> str:
        kernel.spawn(lambda: (kernel.sleep(1.0), kernel.interrupt(KeyboardInterrupt())))
        try:
            runtime.Event().wait()
        except KeyboardInterrupt:
            return "interrupted"
        return "not"

    assert kernel.run(main) == "interrupted"


def test_threads_that_are_left_end_with_the_run() -> None:
    kernel, ended = Kernel(1), []

    def wait() -> None:
        try:
            runtime.Event().wait()
        finally:
            ended.append(1)

    def main() -> None:
        runtime.Thread(target=wait, name="waiter").start()
        runtime.sleep(1.0)
        assert kernel.living() == ["waiter"]

    kernel.run(main)
    assert ended == [1]


def test_outside_of_a_run_time_is_real() -> None:
    before = runtime.monotonic, runtime.Thread
    with pytest.raises(ZeroDivisionError):
        Kernel(1).run(lambda: 1 / 0)
    assert (runtime.monotonic, runtime.Thread) == before
