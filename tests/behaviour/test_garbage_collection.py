"""A client that is forgotten, or whose script ends, without ``close``."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import blinker
import pytest
import requests

from comfy_client import (
    AuthenticationError,
    ComfyApi,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import (
    LIMIT,
    Fast,
    open_sockets,
    threads,
    until,
)
from tests.helpers.long import but
from tests.helpers.scripted import (
    GRAPH,
    START,
    WELL,
)

pytestmark = pytest.mark.usefixtures("prompts_wait")

# -- forgotten -----------------------------------------------------------------------------


@pytest.mark.parametrize("closure", [False, True], ids=["plain", "closing over it"])
def test_forgotten_clients_leave_nothing(comfy: ComfyServer, closure: bool) -> None:
    """A notebook cell that is run twenty times."""
    namespace = blinker.Namespace()
    for _ in range(20):
        api = ComfyApi(comfy.url, namespace=namespace)
        if closure:
            api.on("all", lambda event, api=api: api.state)
            namespace.signal("status").connect(lambda sender, event: None, sender=api, weak=False)
        api.init()
        comfy.push_status()
        api.get_queue()
        del api
        gc.collect()
    until(lambda: gc.collect() >= 0 and threads() == [])
    until(lambda: not open_sockets(comfy.port))
    comfy.until(lambda: not comfy.sockets)


def test_a_forgotten_client_that_could_not_connect_is_gone_too(comfy: ComfyServer) -> None:
    """Neither its last error nor init()'s hold it."""
    comfy.faults.refuse_sockets(403)
    api = ComfyApi(comfy.url)
    with pytest.raises(AuthenticationError):
        api.init()
    gone = weakref.ref(api)
    del api
    gc.collect()
    sys.exc_info()
    until(lambda: gc.collect() >= 0 and gone() is None and threads() == [])


def test_ctrl_c_while_a_forgotten_client_takes_back_its_prompts_ends_its_thread(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finalizer cannot raise it, and goes on."""

    class Pending:
        def withdraw(self) -> None:
            signal.raise_signal(signal.SIGINT)

    told: list[type[BaseException] | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: told.append(seen.exc_type))
    api, pending = ComfyApi(comfy.url).init(), Pending()
    api.parts.calls.add(weakref.ref(pending))
    del api
    until(lambda: gc.collect() >= 0 and threads() == [])
    assert told == [KeyboardInterrupt]


@pytest.mark.parametrize("closes", [False, True], ids=["forgotten", "closed"])
def test_a_given_session_goes_along_with_its_last_user(comfy: ComfyServer, closes: bool) -> None:
    """Its idle connections are closed then, although nobody closed the Session."""
    session = requests.Session()
    gone = weakref.ref(session)
    api = ComfyApi(comfy.url, session=session)
    api.get_queue()
    assert open_sockets(comfy.port)
    if closes:
        api.close()
    del api, session
    until(lambda: gc.collect() >= 0 and gone() is None)
    until(lambda: not open_sockets(comfy.port))


def test_an_iterator_keeps_its_client(comfy: ComfyServer) -> None:
    """``for event in ComfyApi(...).events()`` is no deadlock."""
    events = ComfyApi(comfy.url).events("status")
    gc.collect()
    assert next(events).queue_remaining == 0
    events.close()
    del events
    until(lambda: gc.collect() >= 0 and threads() == [])


SCRIPTS = {
    "connected": "api.init()",
    "receivers": "api.on('all', lambda event: api.state); api.init(); api.get_queue()",
    "job": "job = api.submit(GRAPH)",
    "busy receiver": "import time; api.on('status', lambda e: time.sleep(600)); api.init()",
    "poll": "api = ComfyApi(api.host, transport='poll'); api.init()",
    "refused": "api.on('status', print)",
    "iterating": (
        "import threading;"
        "threading.Thread(target=lambda: list(api.events()), daemon=True).start(); api.init()"
    ),
}


# -- the end of the interpreter ------------------------------------------------------------


@pytest.mark.parametrize("what", but(SCRIPTS, "connected", "receivers", "job", "refused"))
def test_a_script_without_close_ends(comfy: ComfyServer, what: str) -> None:
    """Without a word, and whatever still waits or sleeps."""
    port = comfy.port if what != "refused" else 1
    script = (
        f"from comfy_client import ComfyApi\nGRAPH = {GRAPH!r}\n"
        f"api = ComfyApi('127.0.0.1:{port}')\n{SCRIPTS[what]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_an_iterator_may_be_collected_in_any_thread_at_any_moment(comfy, fast):
    """Also where a lock of ours is held: it takes back what waits, and its job's events."""
    comfy.script(*WELL)
    job = fast.submit(GRAPH)
    events = job.events()
    next(events)
    ended = threading.Event()

    def collect():
        with fast.parts.tracker.lock:
            # What closing the iterator of map() does; of one, nobody has heard.
            fast.parts.poller.stops.removing([job.prompt_id, fast.generate_id()])()
            events.close()
        ended.set()

    threading.Thread(target=collect, daemon=True).start()
    assert ended.wait(LIMIT)


def test_a_client_that_is_forgotten_takes_its_thread_along(comfy):
    """Nobody closed it, and its job has not ended."""
    comfy.script(START)
    api = Fast(comfy.url)
    api.submit(GRAPH)
    mine = [t for t in threading.enumerate() if t.name == "comfy-jobs"]
    assert mine
    del api

    def have_ended():
        gc.collect()  # again and again: a thread holds the client while it works for it
        return not any(thread.is_alive() for thread in mine)

    comfy.until(have_ended, LIMIT)
