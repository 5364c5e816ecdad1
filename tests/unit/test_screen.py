"""Where a run is shown, by what the caller wants and by where the program runs."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client.showing.screen import surface


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A script whose output goes into a pipe, without logging."""
    monkeypatch.delenv("COMFY_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    logger = logging.getLogger("comfy_client")
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(kernel=object(), execution_count=7)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


CLOSED = io.StringIO()
CLOSED.close()


def in_thread(call: Callable[[], Any]) -> Any:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(call()))
    thread.start()
    thread.join()
    return got[0]


def test_a_pipe_gets_lines_unless_they_are_not_wanted() -> None:
    """On stderr: stdout is the program's."""
    assert surface(None) == "lines"
    assert surface(True) == "lines"
    assert surface(False) == "none"


def test_a_log_that_wants_information_gets_lines() -> None:
    """At the level INFO."""
    logging.getLogger("comfy_client").setLevel(logging.INFO)
    assert surface(None) == "log"
    assert surface(True) == "lines"


def test_a_terminal_has_a_bar_where_tqdm_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, lines."""
    monkeypatch.setattr(sys, "stderr", Terminal())  # in here: pytest sets its own for each phase
    assert surface(None) == "terminal"
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert surface(None) == surface(True) == "lines"


def test_a_wait_other_than_a_run_writes_lines_only_if_it_is_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pipes and logs stay as they are; the environment may ask for them."""
    assert surface(None, unasked_lines=False) == "none"
    assert surface(True, unasked_lines=False) == "lines"
    logging.getLogger("comfy_client").setLevel(logging.INFO)
    assert surface(None, unasked_lines=False) == "none"
    monkeypatch.setenv("COMFY_PROGRESS", "1")
    assert surface(None, unasked_lines=False) == "lines"


@pytest.mark.usefixtures("notebook")
def test_a_notebook_has_a_display() -> None:
    """Whatever stderr is."""
    assert surface(None) == surface(True) == "notebook"
    assert surface(False) == "none"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", "none"), ("false", "none"), (" OFF ", "none"), ("1", "lines"), ("", "lines")],
)
def test_the_environment_decides_where_no_argument_does(
    value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``COMFY_PROGRESS``."""
    monkeypatch.setenv("COMFY_PROGRESS", value)
    assert surface(None) == expected
    assert surface(True) == "lines"
    assert surface(False) == "none"


@pytest.mark.usefixtures("notebook")
def test_progress_in_another_thread_is_shown_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be a library's, which does not own the screen."""
    monkeypatch.setenv("COMFY_PROGRESS", "1")
    assert in_thread(lambda: surface(None)) == "none"
    assert in_thread(lambda: surface(True)) == "notebook"


@pytest.mark.parametrize("stderr", [None, object(), CLOSED])
def test_a_screen_of_any_kind_raises_nothing(
    stderr: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be none, as under ``pythonw``."""
    monkeypatch.setattr(sys, "stderr", stderr)
    assert surface(None) == "lines"
