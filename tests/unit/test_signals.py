"""Signals: their names, receivers of every form, and receivers that do harm."""

from __future__ import annotations

import functools
import gc
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import blinker
import pytest

import comfy_client
from comfy_client import ComfyApi, signals
from comfy_client.events import (
    NAMES,
    PreviewEvent,
    Progress,
)
from comfy_client.testing import ComfyServer
from comfy_client.transport.decode import decode_text
from tests.helpers.clients import until
from tests.helpers.events import mine, note, progress
from tests.helpers.station import LIMIT, Box, Client, Station


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


# -- signals and names ---------------------------------------------------------------------


def test_documented_names_live_in_blinkers_default_namespace() -> None:
    """``comfy_client.signal`` and ``blinker.signal`` give the same object."""
    for name in NAMES:
        assert comfy_client.signal(name) is blinker.signal(name)


def test_signals_of_unknown_names_live_apart_from_blinkers() -> None:
    """A server cannot fire what some other library keeps under that name."""
    ours = comfy_client.signal("model_changed")
    assert ours is comfy_client.signal("model_changed")
    assert ours is not blinker.signal("model_changed")


def test_an_unknown_name_reaches_all_on_and_our_signal_only() -> None:
    """Not blinker's own signal of that name."""
    station = Station(blinker.default_namespace)
    got: list[tuple[str, Any]] = []

    def ours(sender: object, event: Any) -> None:
        got.append(("ours", event.data))

    def theirs(sender: object, event: Any) -> None:
        got.append(("theirs", event.data))

    def everything(sender: object, event: Any) -> None:
        got.append(("all", event.data))

    comfy_client.signal("post_save").connect(ours)
    blinker.signal("post_save").connect(theirs)
    comfy_client.signal("all").connect(everything, sender=station.client)
    station.on("post_save", lambda event: got.append(("on", event.data)))
    (event,) = decode_text(b'{"type": "post_save", "data": 5}')
    station.publish(event)
    station.flush()
    station.receivers.close()
    assert got == [("all", 5), ("on", 5), ("ours", 5)]


def test_no_message_of_a_server_creates_a_signal(station: Station) -> None:
    """Neither names that it makes up nor documented ones take memory."""
    station.on("all", lambda event: None)
    before = dict(signals.other_names), dict(blinker.default_namespace)
    for number in range(1000):
        station.publish(mine(number, f"made up {number}"))
    for name in NAMES:
        station.publish(mine(0, name))
    station.publish(progress(1))
    station.flush()
    assert (dict(signals.other_names), dict(blinker.default_namespace)) == before
    assert not station.namespace


def test_a_given_namespace_is_used_instead_of_blinkers(comfy: ComfyServer) -> None:
    """Documented names fire there, and not in the default namespace."""
    namespace = blinker.Namespace()
    own: queue.Queue[Any] = queue.Queue()
    other: list[Any] = []

    def in_own(api: ComfyApi, event: Any) -> None:
        own.put((api, event.value))

    def in_default(api: ComfyApi, event: Any) -> None:
        other.append(event)

    namespace.signal("notification").connect(in_own)
    blinker.signal("notification").connect(in_default)
    with ComfyApi(comfy.url, namespace=namespace) as api:
        for value in ("hello", "again"):
            comfy.push({"type": "notification", "data": {"value": value}})
            assert own.get(timeout=LIMIT) == (api, value)
    assert other == []


def test_signals_of_two_clients_differ_by_their_sender(comfy: ComfyServer) -> None:
    """``connect(fn, sender=api)`` hears one client; without sender both."""
    one: list[Any] = []
    both: list[Any] = []

    def of_first(api: ComfyApi, event: Any) -> None:
        one.append((api, event.value))

    def of_all(api: ComfyApi, event: Any) -> None:
        both.append(event.value)

    with ComfyApi(comfy.url) as first, ComfyApi(comfy.url) as second:
        comfy_client.signal("notification").connect(of_first, sender=first)
        comfy_client.signal("notification").connect(of_all)
        for count in (2, 4):
            for api in (first, second):
                data = {"value": api.client_id}
                comfy.push({"type": "notification", "data": data}, to=api.client_id)
            until(lambda count=count: len(both) == count)  # type: ignore[misc]
        assert one[0] == (first, first.client_id)
        assert {api for api, _ in one} == {first}
        assert sorted(both) == sorted([first.client_id, second.client_id] * 2)


def test_a_receiver_of_another_client_costs_this_one_nothing() -> None:
    """No thread starts, and no previews are asked for."""
    one = Station()
    other = Station(one.namespace)

    def receiver(sender: object, event: object) -> None: ...

    one.connect("b_preview", receiver, sender=other.client)
    one.publish(PreviewEvent(name="b_preview"))
    assert not one.receivers.listens(("b_preview",))
    assert one.receivers.thread is None
    assert other.receivers.listens(("b_preview",))


class Callable2:
    """A receiver that is an object; without hash and without weak references."""

    __slots__ = ("got",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.got: list[Any] = []

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, sender: object, event: Any) -> None:
        self.got.append((sender, event))


# -- forms of receivers --------------------------------------------------------------------


def test_receivers_of_every_form_get_sender_and_event(station: Station) -> None:
    """Functions, methods, partials, builtins, objects; by position or by keyword."""
    got: list[Any] = []
    box, thing = Box(), Callable2()
    builtin: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def plain(sender: object, event: Any) -> None:
        got.append((sender, event))

    def renamed(api: object, what: Any, more: int = 3) -> None:
        got.append((api, what))

    def anything(*args: Any) -> None:
        got.append(args)

    def by_keywords(sender: object, **kw: Any) -> None:
        assert set(kw) == {"event"}
        got.append((sender, kw["event"]))

    def by_keyword(sender: object, *, event: Any) -> None:
        got.append((sender, event))

    def three(extra: int, sender: object, event: Any) -> None:
        got.append((sender, event))

    @functools.wraps(by_keyword)
    def wrapped(*args: Any, **kw: Any) -> None:
        by_keyword(*args, **kw)

    functions = [plain, renamed, anything, by_keywords, by_keyword, wrapped]
    receivers = [*functions, functools.partial(three, 1), box.method, Box.of_class, Box.static]
    for receiver in (*receivers, thing, functools.partial(builtin.put)):
        station.connect("mine" if receiver is thing else "progress", receiver, weak=False)
    signals.signal("mine").connect(thing, weak=False)
    try:
        for value in (1, 2):
            event = Progress(name="progress", value=value, raw=got)
            station.publish(event)
        other = mine(1)
        station.publish(other)
        station.flush()
    finally:
        signals.signal("mine").disconnect(thing)
    assert len(box.got) == 2
    assert got.count((station.client, event)) == len(functions) + 3
    assert len(got) == 2 * (len(functions) + 3)
    assert thing.got == [(station.client, other)]


def bad_receivers() -> dict[str, Any]:
    async def coroutine(sender: object, event: Any) -> None: ...

    async def async_generator(sender: object, event: Any) -> Any:
        yield

    def generator(sender: object, event: Any) -> Any:
        yield

    class Asynchronous:
        async def __call__(self, sender: object, event: Any) -> None: ...

    class Slotted:
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> None: ...

    return {
        "nothing": lambda: None,
        "event only": lambda event: None,
        "too many": lambda sender, event, more: None,
        "keywords only": lambda **kw: None,
        "other keyword": lambda sender, *, evt: None,
        "coroutine": coroutine,
        "partial coroutine": functools.partial(coroutine),
        "asynchronous object": Asynchronous(),
        "async generator": async_generator,
        "generator": generator,
        "unbound method": Box.method,
        "slotted": Slotted(),
        "builtin": [].append,
    }


@pytest.mark.parametrize("form", bad_receivers())
def test_a_receiver_that_cannot_be_called_is_logged_once(
    form: str, station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for any number of events, and the others still hear."""
    got: list[Any] = []
    receiver = bad_receivers()[form]
    station.connect("notification", receiver, weak=False)
    station.on("notification", got.append)
    for _ in range(5):
        station.publish(note())
    station.flush()
    (line,) = errors(caplog)
    assert "(sender, event)" in line
    assert "'notification'" in line
    assert len(got) == 5


def test_a_bound_method_is_heard_after_its_function_was_refused(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody connects ``Box.method``, is told, and connects that of an object."""
    box = Box()
    station.connect("notification", Box.method)
    station.publish(note())
    station.flush()
    station.connect("notification", box.method)
    station.publish(note())
    station.flush()
    assert len(box.got) == 1
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize(
    "callback",
    [None, 5, lambda: None, lambda api, event: None, *map(bad_receivers().get, ["coroutine"])],
)
def test_a_callback_that_does_not_take_one_event_is_refused_at_once(
    callback: Any, station: Station
) -> None:
    """In the caller's own line, not later in a thread."""
    with pytest.raises(TypeError, match="one event"):
        station.on("progress", callback)
    assert not station.receivers.listens(("progress",))


def test_callbacks_of_every_form_get_one_event(station: Station) -> None:
    """Functions, methods, partials, builtins."""
    got: list[Any] = []
    box: list[Any] = []
    calls: Any = [got.append, lambda event: got.append(event), functools.partial(got.append)]
    for callback in (*calls, lambda *args: got.extend(args), queue.Queue().put, box.append, print):
        station.on("notification", callback)
    event = note()
    station.publish(event)
    station.flush()
    assert got == [event] * 4
    assert box == [event]


# -- weak and strong -----------------------------------------------------------------------


def test_a_lambda_that_nobody_keeps_is_gone_and_a_named_function_is_not(station: Station) -> None:
    """blinker's own weak reference; ``weak=False`` and ``on`` keep."""
    got: list[str] = []

    def named(sender: object, event: Any) -> None:
        got.append("named")

    station.connect("notification", lambda sender, event: got.append("lambda"))
    station.connect("notification", lambda sender, event: got.append("strong"), weak=False)
    station.connect("notification", named)
    station.connect("notification", Box().method)
    station.on("notification", lambda event: got.append("on"))
    gc.collect()
    station.publish(note())
    station.flush()
    assert sorted(got) == ["named", "on", "strong"]
    del named
    gc.collect()
    station.publish(note())
    station.flush()
    assert sorted(got[3:]) == ["on", "strong"]


@pytest.mark.parametrize("name", ["b_preview_with_metadata", "somebodys.node"])
@pytest.mark.parametrize("receiver", [lambda api, event: None, functools.partial(print, end="")])
def test_a_weakly_connected_lambda_is_warned_about_once(
    name: str,
    receiver: Callable[..., object],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lambda that is connected weakly; not a function, and not with ``weak=False``."""
    for namespace in (blinker.default_namespace, signals.other_names):
        monkeypatch.delitem(namespace, name, raising=False)
    found = comfy_client.signal(name)
    assert comfy_client.signal(name) is found
    found.connect(errors)
    found.connect(receiver, weak=False)
    with found.connected_to(receiver):
        pass
    assert caplog.text == ""
    for _ in range(3):
        found.connect(receiver)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert name in record.getMessage()
    assert "weak=False" in record.getMessage()


def test_a_signal_that_nobody_sends_is_warned_about_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is nearly ComfyUI's own; those of custom nodes may have any other name."""
    monkeypatch.delitem(signals.other_names, "b_previw", raising=False)
    comfy_client.signal("b_preview")
    comfy_client.signal("impact-node-feedback")
    assert caplog.text == ""
    for _ in range(3):
        comfy_client.signal("b_previw")
    (record,) = caplog.records
    assert "did you mean 'b_preview'?" in record.getMessage()


def test_the_type_of_a_message_that_fires_another_event_is_warned_about(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receivers would wait for ever."""
    monkeypatch.delitem(signals.other_names, "crystools.monitor", raising=False)
    comfy_client.signal("crystools.monitor")
    assert "messages of the type 'crystools.monitor' fire the event 'monitor'" in caplog.text


def test_looking_at_a_receiver_keeps_no_hold_on_it(station: Station) -> None:
    """What was found out about its arguments goes with it."""

    def receiver(sender: object, event: Any) -> None: ...

    box = Box()
    station.connect("notification", receiver)
    station.connect("notification", box.method)
    station.publish(note())
    station.flush()
    watched = weakref.ref(receiver), weakref.ref(box)
    del receiver, box
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


def test_a_muted_signal_is_silent(station: Station) -> None:
    """``with signal.muted()``; callbacks of ``on`` are another matter."""
    got: list[Any] = []
    on: list[Any] = []

    def receiver(sender: object, event: Any) -> None:
        got.append(event.value)

    station.connect("notification", receiver)
    station.on("notification", on.append)
    with station.namespace.signal("notification").muted():
        station.publish(note(1))
        station.flush()
    station.publish(note(2))
    station.flush()
    assert got == ["2"]
    assert len(on) == 2


# -- receivers that do harm ----------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_raising_receiver_is_logged_and_the_others_still_run(
    error: type[BaseException], station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback; the thread lives on, also after ``sys.exit()``."""
    got: list[Any] = []

    def raising(*args: Any) -> None:
        raise error("on purpose")

    def receiver(sender: object, event: Any) -> None:
        got.append(event)

    station.on("notification", raising)
    station.on("notification", got.append)
    station.connect("notification", raising)
    station.connect("notification", receiver)
    for _ in range(2):
        station.publish(note())
    station.flush()
    assert len(got) == 4
    assert len(errors(caplog)) == 4
    assert "on purpose" in caplog.text
    assert "in raising" in caplog.text


def test_a_defect_inside_blinker_does_not_end_the_thread(
    station: Station, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no locks: a connect in another thread may disturb its walk once."""
    got: list[Any] = []

    def receiver(sender: object, event: Any) -> None:
        got.append(event.value)

    def disturbed(sender: object) -> Any:
        raise RuntimeError("dictionary changed size during iteration")

    station.connect("notification", receiver)
    found = station.namespace.signal("notification")
    with monkeypatch.context() as patch:
        patch.setattr(found, "receivers_for", disturbed)
        station.publish(note(1))
        station.flush()
    station.publish(note(2))
    station.flush()
    assert got == ["2"]
    assert len(errors(caplog)) == 1


def test_receivers_may_come_and_go_in_other_threads(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    """Thousands of events during it all arrive at the one that stays."""
    got: list[Any] = []
    stop = threading.Event()

    def steady(sender: object, event: Any) -> None:
        got.append(event.value)

    def connect_and_disconnect() -> None:
        # In one thread: two such could disturb each other, as blinker has no locks.
        signal = station.namespace.signal("notification")
        while not stop.is_set():
            senders = [Client() for _ in range(5)]
            boxes = [Box() for _ in senders]
            for box, sender in zip(boxes, senders, strict=True):
                signal.connect(box.method, sender=sender)
                signal.connect(box.method)
            for box in boxes[:3]:
                signal.disconnect(box.method)

    def on_and_off() -> None:
        while not stop.is_set():
            got: list[Any] = []
            off = station.on("notification", got.append)
            station.on("notification", got.append)
            station.receivers.off("notification", got.append)
            off()
            station.receivers.off("notification", got.append)

    station.connect("notification", steady)
    targets = connect_and_disconnect, on_and_off, on_and_off
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for number in range(5000):
        station.publish(note(number))
    stop.set()
    for thread in threads:
        thread.join(LIMIT)
    station.flush()
    assert got == [str(number) for number in range(5000)]
    assert errors(caplog) == []


def test_receivers_may_connect_and_disconnect_from_within(station: Station) -> None:
    """The new one hears the next event; one that was taken away hears no more, at once."""
    got: list[str] = []

    def late(event: Any) -> None:
        got.append("late")

    def first(event: Any) -> None:
        got.append("first")
        off_second()
        station.on("notification", late)

    off_first = station.on("notification", first)
    off_second = station.on("notification", lambda event: got.append("second"))
    station.publish(note())
    station.flush()
    off_first()
    station.publish(note())
    station.flush()
    assert got == ["first", "late"]


def test_a_signal_receiver_that_an_earlier_one_disconnects_is_not_called(station: Station) -> None:
    """As blinker itself does it."""
    signal = station.namespace.signal("notification")
    got: list[str] = []

    def one(sender: object, event: Any) -> None:
        got.append("one")
        signal.disconnect(two)

    def two(sender: object, event: Any) -> None:
        got.append("two")
        signal.disconnect(one)

    signal.connect(one)
    signal.connect(two)
    station.publish(note())
    station.flush()
    assert len(got) == 1


def test_the_function_that_unsubscribes_says_so_in_a_notebook(station: Station) -> None:
    """Where it ends a cell, as the value of ``api.on(...)``."""
    receivers = station.receivers
    unsubscribe = receivers.on("progress", print, once=False)
    assert repr(unsubscribe) == "<function that unsubscribes from 'progress'>"
    unsubscribe()
    assert not receivers.off("progress", print)
