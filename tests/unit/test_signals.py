"""Who hears of an event, in which thread, in which order, and what is left out."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import blinker
import pytest

import comfy_client
from comfy_client import ClientClosed, ComfyApi, signals
from comfy_client.event_queue import HIGH_WATER, MAX_QUEUED
from comfy_client.events import (
    NAMES,
    Event,
    ExecutionSuccess,
    PreviewEvent,
    Progress,
    StatusEvent,
)
from comfy_client.signals import Receivers
from comfy_client.testing import ComfyServer
from comfy_client.transport.decode import decode_text
from tests.helpers.clients import threads, until
from tests.helpers.events import drained, mine, note, progress
from tests.helpers.interrupts import fail_next_start, in_time

LIMIT = 20.0  # seconds that any wait in here may take


class Client:
    """Stands for a ComfyApi as the sender."""


class Station:
    """Receivers of a client, in a namespace of its own."""

    def __init__(self, namespace: blinker.Namespace | None = None) -> None:
        self.client = Client()
        self.namespace = blinker.Namespace() if namespace is None else namespace
        self.receivers = Receivers(self.client, self.namespace)
        self.publish = self.receivers.publish
        self.on = functools.partial(self.receivers.on, once=False)

    def connect(self, name: str, receiver: Any, **kw: Any) -> None:
        self.namespace.signal(name).connect(receiver, **kw)

    def flush(self) -> None:
        self.receivers.flush(LIMIT)


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station()
    yield made
    made.receivers.close()


class Gate:
    """A callback that waits until it is let go, so that events gather behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.free = threading.Event()

    def __call__(self, *_: object) -> None:
        self.entered.set()
        assert self.free.wait(LIMIT)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


# -- signals and names -------------------------------------------------------------------


def test_documented_names_live_in_blinkers_default_namespace() -> None:
    """``comfy_client.signal`` and ``blinker.signal`` give the same object."""
    for name in NAMES:
        assert comfy_client.signal(name) is blinker.signal(name)


def test_other_names_live_apart_from_blinkers() -> None:
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


def test_names_of_the_client_do_not_fire_from_server_data(station: Station) -> None:
    """Such a message is in ``all``, and nowhere else."""
    got: list[str] = []
    for name in NAMES:
        station.on(name, lambda event, name=name: got.append(name))
    for name in sorted(NAMES):
        for event in decode_text(b'{"type": "%s", "data": null}' % name.encode()):
            station.publish(event)
    station.flush()
    assert got == ["all"] * len(NAMES)


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


def test_a_namespace_of_ones_own_is_used_instead_of_blinkers(comfy: ComfyServer) -> None:
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


def test_two_clients_are_told_apart_by_their_sender(comfy: ComfyServer) -> None:
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
    assert not one.receivers.listens("b_preview")
    assert one.receivers.thread is None
    assert other.receivers.listens("b_preview")


# -- forms of receivers ------------------------------------------------------------------


class Box:
    """Receivers that are methods."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def method(self, sender: object, event: Any) -> None:
        self.got.append((sender, event))

    @classmethod
    def of_class(cls, sender: object, event: Any) -> None:
        event.raw.append((sender, event))

    @staticmethod
    def static(sender: object, event: Any) -> None:
        event.raw.append((sender, event))


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
def test_a_receiver_that_cannot_be_called_is_told_once_in_words(
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
    assert not station.receivers.listens("progress")


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


# -- weak and strong ---------------------------------------------------------------------


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
def test_what_will_be_gone_at_once_is_warned_about_once(
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
    comfy_client.signal("crystools.monitor")
    assert caplog.text == ""
    for _ in range(3):
        comfy_client.signal("b_previw")
    (record,) = caplog.records
    assert "did you mean 'b_preview'?" in record.getMessage()


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


# -- receivers that do harm ---------------------------------------------------------------


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


# -- on and off --------------------------------------------------------------------------


def test_off_takes_back_exactly_one_registration_of_that_pair(station: Station) -> None:
    """The oldest of that name and callback; others stay."""
    box = Box()
    got = box.got

    def callback(event: Any) -> None:
        got.append(event)

    for name in ("notification", "notification", "status"):
        station.on(name, callback)
    off = station.receivers.off
    assert off("notification", callback)
    station.publish(note())
    station.flush()
    assert len(got) == 1
    assert off("notification", callback)
    assert not off("notification", callback)
    assert not off("notification", print)
    assert not off("never", callback)
    station.publish(note())
    station.publish(StatusEvent(name="status"))
    station.flush()
    assert [event.name for event in got] == ["notification", "status"]


def test_off_knows_a_bound_method_again(station: Station) -> None:
    """Each access to a method makes a new object, equal to the last."""
    got: list[Any] = []
    station.on("notification", got.append)
    assert station.receivers.off("notification", got.append)
    assert not station.receivers.listens("notification")


def test_an_unsubscriber_takes_back_its_own_registration_once(station: Station) -> None:
    """Called again it does nothing, also when the same callback is there once more."""
    got: list[Any] = []
    offs = [station.on("notification", got.append) for _ in range(3)]
    for _ in range(3):
        offs[1]()
    station.publish(note())
    station.flush()
    assert len(got) == 2
    for off in offs:
        off()
    assert not station.receivers.listens("notification")


def test_off_in_many_threads_takes_back_as_many_as_it_says(station: Station) -> None:
    """Each ``True`` is one registration."""
    for _ in range(50):
        station.on("notification", print)
    answers: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: answers.extend(
                station.receivers.off("notification", print) for _ in range(20)
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert (answers.count(True), answers.count(False)) == (50, 30)


def test_once_fires_once_under_concurrent_publishing(station: Station) -> None:
    """Also when events are waiting already, and from many threads."""
    got: list[Any] = []
    start = threading.Barrier(4)

    def publish() -> None:
        start.wait(LIMIT)
        for _ in range(50):
            station.publish(note())

    for _ in range(5):
        station.receivers.on("notification", got.append, once=True)
    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    station.flush()
    assert len(got) == 5
    assert not station.receivers.listens("notification")


def test_once_may_be_taken_back_before_it_fires(station: Station) -> None:
    """By its unsubscriber or by off."""
    got: list[Any] = []
    station.receivers.on("notification", got.append, once=True)()
    station.receivers.on("notification", got.append, once=True)
    station.receivers.off("notification", got.append)
    station.publish(note())
    station.flush()
    assert got == []


# -- waiting and iterating ----------------------------------------------------------------


def test_wait_for_gives_the_first_event_that_satisfies(comfy: ComfyServer) -> None:
    """Others of that name pass by."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:

        def push() -> None:
            comfy.until(lambda: comfy.hellos, LIMIT)  # which the wait has opened
            for value in ("one", "two", "three"):
                comfy.push({"type": "notification", "data": {"value": value}})

        thread = threading.Thread(target=push)
        thread.start()
        event = api.wait_for("notification", lambda e: e.value != "one", timeout=LIMIT)
        thread.join(LIMIT)
        assert event.value == "two"
        assert [one.name for one in threads() if one.name == "comfy-delivery"] == []


def test_what_can_be_no_event_nor_predicate_is_told(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A timeout in the wrong place, no number of seconds, a typo in the name."""
    with ComfyApi(comfy.url) as api:
        with pytest.raises(TypeError, match="timeout is the third"):
            api.wait_for("executed", 0.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a number of seconds"):
            api.wait_for("executed", None, "1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="0 or more"):
            api.wait_for("executed", timeout=-1)
        with pytest.raises(TimeoutError):
            api.wait_for("exected", timeout=0)
        api.events("exected")
        assert caplog.text.count("did you mean 'executed'?") == 2


def test_wait_for_ends_with_the_time_or_the_client(comfy: ComfyServer) -> None:
    """TimeoutError, ClientClosed, or whatever the predicate raises."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        closer = threading.Thread(
            target=lambda: (comfy.until(lambda: comfy.hellos, LIMIT), api.close())
        )
        closer.start()
        with pytest.raises(ClientClosed):
            api.wait_for("progress")
        closer.join(LIMIT)
        with pytest.raises(ClientClosed):
            api.wait_for("progress")
    with ComfyApi(comfy.url) as api:
        for timeout in (0, 0.05):
            with pytest.raises(TimeoutError, match="no event 'progress'"):
                api.wait_for("progress", timeout=timeout)


def test_a_predicate_that_raises_ends_the_wait(station: Station) -> None:
    """In the caller's thread, and the tap is gone."""
    tap = station.receivers.subscribe("notification")
    station.publish(note())
    with pytest.raises(ZeroDivisionError):
        station.receivers.wait_for(tap, lambda event: 1 / 0 > 0, None)
    assert station.receivers.subscriptions() == []


def test_a_callback_may_wait_for_an_event(station: Station) -> None:
    """The socket's thread feeds waiters itself, not through the delivery thread."""
    got: list[Any] = []
    waiting = threading.Event()

    def callback(event: Any) -> None:
        tap = station.receivers.subscribe("status")
        waiting.set()
        got.append(station.receivers.wait_for(tap, None, LIMIT))

    station.on("notification", callback)
    station.publish(note())
    assert waiting.wait(LIMIT)
    status = StatusEvent(name="status")
    station.publish(status)
    station.flush()
    assert got == [status]


def test_the_iterator_brings_events_from_its_making_to_the_clients_end(comfy: ComfyServer) -> None:
    """In order, and it ends when the client is closed."""
    with ComfyApi(comfy.url) as api:
        events = api.events("notification")
        for value in "abc":
            comfy.push({"type": "notification", "data": {"value": value}})
        assert [next(events).value for _ in range(3)] == ["a", "b", "c"]
        threading.Timer(0.05, api.close).start()
        assert list(events) == []
        with pytest.raises(ClientClosed):
            api.events()


def test_an_iterator_that_nobody_keeps_costs_nothing(station: Station) -> None:
    """Started or not: its tap goes with it."""
    for started in (False, True):
        events = station.receivers.events(station.receivers.subscribe("all"))
        if started:
            station.publish(note())
            next(events)
        del events
        gc.collect()
        assert station.receivers.subscriptions() == []


def test_an_iterator_may_end_while_the_lock_is_held(station: Station) -> None:
    """The collector may end one that nobody keeps in the middle of any call of this thread."""

    def end_within() -> None:
        tap = station.receivers.subscribe("all")
        events = station.receivers.events(tap)
        tap.put(note())
        next(events)
        with station.receivers._lock:
            del events
        ended.append(tap.closed)

    ended: list[bool] = []
    in_time(end_within)
    assert ended == [True]
    assert station.receivers.subscriptions() == []


def test_who_iterates_holds_the_client(comfy: ComfyServer) -> None:
    """``for event in ComfyApi(host).events()`` goes on, though nobody else holds it."""
    events = ComfyApi(comfy.url).events("notification")
    gc.collect()
    comfy.until(lambda: comfy.hellos, LIMIT)
    comfy.push({"type": "notification", "data": {"value": "still here"}})
    assert next(events).value == "still here"
    del events
    gc.collect()


# -- the queue under pressure --------------------------------------------------------------


def test_what_an_unread_iterator_drops_is_counted(station: Station) -> None:
    """Beside what receivers were too slow for, and when it is gone, too."""
    events = station.receivers.events(station.receivers.subscribe("notification"))
    station.publish(note())
    next(events)
    for value in range(MAX_QUEUED + 5):
        station.publish(note(value))
    assert station.receivers.dropped == 5
    del events
    gc.collect()
    assert station.receivers.dropped == 5


def test_the_cost_of_an_event_grows_with_the_number_of_callbacks_only(station: Station) -> None:
    """Not with its square: some thousand take a millisecond of this thread's time, not 120."""
    calls: list[Event] = []
    for _ in range(5_000):
        station.on("mine", calls.append)
    start = time.thread_time()
    station.receivers.deliver(mine(0))
    assert time.thread_time() - start < 0.05
    assert len(calls) == 5_000


def test_a_slow_receiver_never_delays_the_publisher(station: Station) -> None:
    """Publishing goes on while it sleeps; afterwards the newest and all ends come."""
    gate = Gate()
    got: list[Any] = []
    station.on("notification", gate)
    station.on("all", got.append)
    station.publish(note())
    assert gate.entered.wait(LIMIT)
    put: list[Any] = []
    start = time.monotonic()
    for value in range(20_000):
        put.append(progress(value))
        station.publish(put[-1])
        if value % 1000 == 0:
            put.append(ExecutionSuccess(name="execution_success", prompt_id=str(value)))
            station.publish(put[-1])
    assert time.monotonic() - start < LIMIT
    assert not gate.free.is_set()
    assert station.receivers.dropped > 19_000
    gate.free.set()
    station.flush()
    assert put[-1] in got
    ends = [event.prompt_id for event in got if event.name == "execution_success"]
    assert ends == [str(value) for value in range(0, 20_000, 1000)]
    assert len(got) + station.receivers.dropped == len(put) + 1


# -- flush --------------------------------------------------------------------------------


def test_flush_returns_when_all_before_has_been_delivered(station: Station) -> None:
    """Also when that gave way to newer events meanwhile."""
    gate = Gate()
    got: list[Any] = []
    station.on("progress", got.append)
    station.on("notification", gate)
    station.publish(note())
    assert gate.entered.wait(LIMIT)
    for value in range(HIGH_WATER - 1):
        station.publish(progress(value))
    flushed = threading.Event()

    def flush() -> None:
        station.flush()
        flushed.set()

    thread = threading.Thread(target=flush)
    thread.start()
    for value in range(1000):
        station.publish(progress(value))
    assert not flushed.is_set()
    gate.free.set()
    assert flushed.wait(LIMIT)
    thread.join(LIMIT)
    station.flush()
    assert got[-1].value == 999


def test_flush_is_bounded_and_ends_with_the_client(station: Station) -> None:
    """A receiver that never returns costs the given time, and nothing after close."""
    gate = Gate()
    station.on("notification", gate)
    station.publish(note())
    assert gate.entered.wait(LIMIT)
    start = time.monotonic()
    station.receivers.flush(0.05)
    assert time.monotonic() - start < LIMIT
    station.receivers.close()
    station.flush()
    assert not gate.free.is_set()
    gate.free.set()


def test_flush_from_inside_a_receiver_returns_at_once(station: Station) -> None:
    """It would wait for itself."""
    took: list[float] = []

    def callback(event: Any) -> None:
        start = time.monotonic()
        station.flush()
        took.append(time.monotonic() - start)

    station.on("notification", callback)
    for _ in range(3):
        station.publish(note())
    station.flush()
    assert len(took) == 3
    assert max(took) < LIMIT / 2


# -- the thread ----------------------------------------------------------------------------


def test_no_thread_starts_and_nothing_is_kept_while_nobody_listens(station: Station) -> None:
    """The first receiver starts it; before, an event costs two look-ups."""
    station.on("status", print)
    for value in range(100):
        station.publish(note(value))
    assert station.receivers.thread is None
    got: list[Any] = []
    station.on("notification", got.append)
    station.publish(note("heard"))
    station.flush()
    assert [event.value for event in got] == ["heard"]
    assert station.receivers.thread is not None
    assert station.receivers.thread.daemon


def test_a_thread_that_could_not_start_is_started_by_the_next_event(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it until then, and the events that came before are not lost."""
    got: list[Any] = []
    station.on("notification", got.append)
    fail_next_start(monkeypatch, RuntimeError("can't start new thread"))
    station.publish(note("before"))
    begun = time.monotonic()
    station.flush()
    assert time.monotonic() - begun < LIMIT / 2
    station.publish(note("after"))
    station.flush()
    assert [event.value for event in got] == ["before", "after"]


def test_all_receivers_run_in_one_thread_that_is_not_the_publishers(station: Station) -> None:
    """One after the other: receivers need no locks among themselves."""
    seen: set[threading.Thread] = set()

    def receiver(*args: Any) -> None:
        seen.add(threading.current_thread())

    station.on("all", receiver)
    station.connect("notification", receiver)
    threads = [threading.Thread(target=station.publish, args=(note(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    station.flush()
    assert seen == {station.receivers.thread}


def test_nothing_is_delivered_after_close(station: Station) -> None:
    """What still waited is dropped, and the thread ends, also when a callback closes."""
    got: list[Any] = []

    def callback(event: Any) -> None:
        got.append(event.value)
        station.receivers.close()

    station.on("notification", callback)
    for value in range(10):
        station.publish(note(value))
    thread = station.receivers.thread
    assert thread is not None
    thread.join(LIMIT)
    assert not thread.is_alive()
    station.publish(note())
    assert got == ["0"]


def test_a_forgotten_client_ends_its_delivery_thread(comfy: ComfyServer) -> None:
    """Though a callback closes over it: no thread holds it strongly."""

    def forget() -> tuple[weakref.ref[ComfyApi], threading.Thread]:
        api = ComfyApi(comfy.url)
        called: queue.Queue[threading.Thread] = queue.Queue()
        api.on("status", lambda event: (api.client_id, called.put(threading.current_thread())))
        return weakref.ref(api), called.get(timeout=LIMIT)

    watched, thread = forget()
    until(lambda: (gc.collect(), watched() is None)[1])
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_the_child_of_a_fork_has_its_own_queue_and_locks(station: Station) -> None:
    """Those of the parent may be held for ever; who listens still listens."""
    got: list[Any] = []
    station.on("notification", got.append)
    tap = station.receivers.subscribe("notification")
    station.publish(note("before"))
    station.flush()
    parent, lock = station.receivers._queue, station.receivers._lock
    with lock, parent._changed, tap._changed:
        # As in the child of a fork during which another thread was in the middle of it all.
        child = threading.Thread(target=station.receivers.reset)
        child.start()
        child.join(LIMIT)
        assert not child.is_alive()
        publisher = threading.Thread(target=station.publish, args=(note("after"),))
        publisher.start()
        publisher.join(LIMIT)
        assert not publisher.is_alive()
    station.flush()
    parent.close()
    assert [event.value for event in got] == ["before", "after"]
    assert [event.value for event in drained(tap)] == ["after"]
