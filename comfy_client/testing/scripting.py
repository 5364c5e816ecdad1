"""The control of a running server by a test: requests, answers, events, the steps of scripts.

:class:`ScriptedServer` is the part of :class:`~comfy_client.testing.ComfyServer` for that::

    server.on("GET", "/queue", (502, {}, "bad gateway"))       # a fixed answer
    server.on("GET", "/view*", cut((200, {}, bytes(1000)), 10))  # a broken one
    server.on("SaveImage", image="cat.png")                    # of a node, in place of running it
    server.script(                                             # what prompts do from now on
        {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}},
        may_go_on,                                             # a threading.Event
        Finish(),
    )
    server.until(lambda: len(server.hellos) == 2)              # instead of sleeping
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast, overload

import attrs

from .active_faults import ActiveFaults, Fault, check_count, check_seconds, jsonable
from .faults import Faults
from .node_answers import NODE_ANSWER, GivenPicture, answer_for
from .prompt_queue import Item, PromptQueue
from .received import Ran, Records
from .server_clock import ServerClock
from .server_state import ServerState
from .verifying import RequestCount, find, wanted_of
from .wire import Answer, EventSocket, Handler, Request, decode, pieces, upgrade

#: A placeholder for the prompt's id in a script.
PROMPT_ID = "00000000-0000-4000-8000-000000000000"
_POLL = 0.005  # seconds between two checks of the faults, or of an event


@attrs.frozen
class Finish:
    """A step of a script: the prompt leaves the queue and appears in the history.

    Attributes:
        entry: The complete history entry of the prompt; ``None``: one with the outputs and
            messages that the script has sent.
    """

    entry: Mapping[str, Any] | None = None


@attrs.frozen
class Fail:
    """A step of a script: a node fails, and the prompt with it, which leaves the queue.

    Attributes:
        message: The text of the error.
        node_id: The id of the node; ``None``: the first one of the prompt.
        exception_type: The class of the error, with its module unless it is one of Python's own.
    """

    message: str
    node_id: str | None = None
    exception_type: str = "RuntimeError"

    def event(self, prompt_id: str, graph: Mapping[str, Any], timestamp: int) -> dict[str, Any]:
        """Return the event that tells of it; the time is in milliseconds."""
        node_id = next(iter(graph), "") if self.node_id is None else self.node_id
        node = graph.get(node_id)
        data: dict[str, Any] = {
            "prompt_id": prompt_id,
            "node_id": node_id,
            "node_type": node.get("class_type") if isinstance(node, Mapping) else None,
            "executed": [],
            "exception_message": f"{self.message}\n",
            "exception_type": self.exception_type,
            "traceback": [],
            "current_inputs": {},
            "current_outputs": [],
            "timestamp": timestamp,
        }
        return {"type": "execution_error", "data": data}


#: A step: a dict is a message for the prompt's client, with :data:`PROMPT_ID` replaced; bytes are a
#: binary message; a number is a pause in seconds; an Event is waited for; a function is called with
#: the prompt's id.
Step = Mapping[str, Any] | bytes | float | threading.Event | Finish | Fail | Callable[[str], object]


class PromptHooks:
    """The hooks by which scripts and faults change the execution of prompts."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._queue = state.queue  # the state has another one after a reset

    def play_script(self, item: Item) -> bool:
        """Record that a prompt starts; play the script set for it, or return False without one."""
        state, prompt_id, extra_data = self._state, item[1], item[3]
        if prompt_id in state.sockets.silenced:  # submitted again after lose_queue()
            state.sockets.flush()
            state.sockets.silenced.discard(prompt_id)
        ran = Ran(prompt_id, extra_data.get("client_id"), extra_data)
        state.records.keep(state.records.ran, ran)
        script = state.faults.first("script")
        if script is None:
            return False
        try:
            script.hits += 1
            steps, timeout = script.settings
            play(state, steps, item, timeout)
        except BaseException as exc:  # noqa: BLE001  raised at the end of the server
            if not self._queue.closed:
                state.keep_error(exc)
        return True

    def before_step(self) -> None:
        """Wait while a fault hangs the worker."""
        while self._state.faults.first("hang_worker") and not self._queue.closed:
            time.sleep(_POLL)

    def before_end(self, prompt_id: str, status: str | None) -> bool:
        """Wait while a fault delays history; return whether history records the prompt."""
        state, start = self._state, time.monotonic()
        self.before_step()
        while not self._queue.closed:
            late = state.faults.first("late_history")
            seconds = late.settings if late else 0
            if seconds is not None and time.monotonic() >= start + seconds:
                break
            time.sleep(_POLL)
        if not self._queue.closed:  # by a reset
            record_end(state, prompt_id, status)
        return not state.faults.first("no_history")


def record_end(state: ServerState, prompt_id: str, status: str | None) -> None:
    """Record how a prompt ended, unless the server has stopped or lost the prompt."""
    if state.queue.closed:
        return
    ran = next((r for r in reversed(state.records.ran) if r.prompt_id == prompt_id), None)
    if ran is not None and prompt_id not in state.sockets.silenced:
        ran.status = status


def finish(
    state: ServerState,
    prompt_id: str,
    outputs: Mapping[str, Any] | None,
    messages: Collection[Any],
    entry: Mapping[str, Any] | None,
) -> None:
    """Move a prompt to the history, with ``entry`` or one made of the other arguments."""
    failed = {m[0] for m in messages} & {"execution_error", "execution_interrupted"}
    status = {
        "status_str": "error" if failed else "success",
        "completed": not failed,
        "messages": list(messages),
    }
    made = {"outputs": dict(outputs or {}), "status": status, "meta": {}}
    result = dict(entry) if entry else made
    record_end(state, prompt_id, (result.get("status") or {}).get("status_str"))
    state.queue.settle(prompt_id, result)


def push(
    state: ServerState, opcode: int, payload: bytes, to: str | None = None, fragments: int = 1
) -> None:
    """Send a message to one client, or to all if ``to`` is None; return once it is sent."""
    state.sockets.push(b"".join(pieces(opcode, payload, fragments)), to)


def play(
    state: ServerState,
    steps: Sequence[Step],
    item: Item,
    timeout: float,
) -> None:
    """Play a script for one prompt, and wait until the prompt has left the queue.

    Raises TimeoutError if an event is not set within `timeout` seconds.
    """
    outputs: dict[str, Any] = {}
    messages: list[Any] = []
    queue, prompt_id, client_id = state.queue, item[1], item[3].get("client_id")
    clock = state.options.clock
    for given in steps:
        clock.stand(lambda: queue.closed)
        if queue.closed:
            return
        step = given.event(prompt_id, item[2], clock.stamp()) if isinstance(given, Fail) else given
        if isinstance(step, Mapping):
            event = _renamed(step, prompt_id)
            data = event.get("data")
            if event.get("type") == "executed":
                outputs[data["node"]] = data["output"]
            elif str(event.get("type")).startswith("execution_"):
                messages.append([event["type"], data])
            if event.keys() == {"type", "data"}:
                state.send(event["type"], data, client_id)
            else:
                push(state, 1, json.dumps(event).encode(), client_id)
        elif isinstance(step, bytes):
            push(state, 2, step.replace(PROMPT_ID.encode(), prompt_id.encode()), client_id)
        elif isinstance(step, int | float):
            state.sockets.flush()
            clock.wait(step, lambda: queue.closed)
        elif isinstance(step, threading.Event):
            state.sockets.flush()
            _wait_for(step, queue, timeout)
        elif isinstance(step, Finish):
            entry = step.entry and _renamed(step.entry, prompt_id)
            finish(state, prompt_id, outputs, messages, entry)
        else:
            state.sockets.flush()
            step(prompt_id)
        if isinstance(given, Fail):
            finish(state, prompt_id, outputs, messages, None)
    state.sockets.flush()
    clock.end()
    while queue.running_id == prompt_id and not queue.closed:
        state.records.wait(_POLL)


def _wait_for(event: threading.Event, queue: PromptQueue, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not event.wait(_POLL) and not queue.closed:
        if time.monotonic() > end:
            raise TimeoutError(f"the script waited {timeout} s for an event")


def _renamed(data: Mapping[str, Any], prompt_id: str) -> Any:
    return json.loads(json.dumps(data).replace(PROMPT_ID, prompt_id))


_H = TypeVar("_H", bound=Handler)


@attrs.frozen
class Socket:
    """An open WebSocket of a client, as a test sees it on the server."""

    client_id: str
    _link: EventSocket = attrs.field(repr=False)
    _state: ServerState = attrs.field(repr=False)

    def hang_up(self, *, reset: bool = True) -> None:
        """End the socket abruptly, with an RST or, if ``reset`` is false, a bare FIN."""
        self._state.loop.call(self._link.hang_up, reset)


class ScriptedServer:
    """The part of a server that tests read and control.

    :class:`~comfy_client.testing.ComfyServer` describes the attributes.
    """

    def __init__(self, clock: ServerClock) -> None:
        self._clock = clock
        self._records = Records()
        self._active = ActiveFaults(self._flush)
        self.requests: list[Request] = self._records.requests
        self.handshakes: list[Mapping[str, str]] = self._records.handshakes
        self.hellos: list[str] = self._records.hellos
        self.first_messages: list[Any] = self._records.first_messages
        self.messages: list[Any] = self._records.messages
        self.ran: list[Ran] = self._records.ran
        self.errors: list[BaseException] = self._records.errors
        self.faults: Faults = Faults(self._active, self._running, self._crash)

    def _running(self) -> ServerState:
        raise NotImplementedError

    def _crash(self, fault: Fault | None = None) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        """Wait until all messages queued so far have been sent, if the server is running."""
        with contextlib.suppress(RuntimeError):  # it is not running
            self._running().sockets.flush()

    # -- what clients sent --------------------------------------------------------------

    @property
    def connections(self) -> int:
        """The number of accepted TCP connections."""
        return self._records.connections

    @property
    def pings(self) -> int:
        """The number of pings from clients."""
        return self._records.pings

    def until(self, predicate: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait until ``predicate()`` is true; raise AssertionError after ``timeout`` seconds."""
        self._records.until(predicate, timeout)

    @property
    def sockets(self) -> list[Socket]:
        """The WebSockets that are open now."""
        state = self._running()
        return [Socket(link.client_id, link, state) for link in state.sockets.open]

    @property
    def open_connections(self) -> int:
        """The number of open TCP connections."""
        state = self._running()
        return sum(port.count for port in (state.connections, *state.ports))

    def verify(
        self,
        method: str = "*",
        path: str = "*",
        *,
        body_contains: Any = None,
        text_contains: str | None = None,
        count: RequestCount | None = None,
    ) -> list[Request]:
        """Return the requests that fit, oldest first; raise AssertionError unless there are enough.

        Args:
            method: The method, or ``*``.
            path: The path, which also fits below ``/api``; ``*`` stands for any part of it.
            body_contains: What the JSON of the body contains: an object contains one with fewer
                members, at any depth.  ``None``: anything.
            text_contains: What a text among the inputs of the submitted prompt contains, whatever
                its case and its white space.  ``None``: anything.
            count: How many requests must fit: a number, or ``{"min": 1, "max": 3}``, of which one
                may be left out.  ``None``: one or more.

        Raises:
            AssertionError: Other numbers of requests fit; the message has the three nearest.
            ValueError: An argument of another type.
        """
        wanted = wanted_of(method, path, body_contains, text_contains)
        found = find([*self.requests], wanted, count)
        if not found.is_right:
            raise AssertionError(found.message())
        return [*found.fitting]

    # -- answers ------------------------------------------------------------------------

    @overload
    def on(self, method: str, path: str, answer: Answer | Handler) -> Fault: ...
    @overload
    def on(self, method: str, path: str) -> Callable[[_H], _H]: ...
    @overload
    def on(
        self,
        node: str,
        /,
        *,
        image: GivenPicture | Sequence[GivenPicture] | None = None,
        text: str | None = None,
        ui: Mapping[str, Any] | None = None,
        error: str | BaseException | None = None,
        times: int | None = None,
    ) -> Fault: ...
    def on(
        self,
        method: str,
        path: str | None = None,
        answer: Answer | Handler | None = None,
        **of_node: Any,
    ) -> Fault | Callable[[_H], _H]:
        """Set the answer of a route or a node until :meth:`off`; the one added last wins.

        A node is named by its class or by its id, and does not run then::

            server.on("SaveImage", image="cat.png")            # any output node, or IMAGE
            server.on("12", text="a cat", times=1)
            server.on("KSampler", error="out of memory")

        For a route without an answer, it is a decorator for the function that makes them::

            @server.on("GET", "/queue")
            def queue(request):
                return 502, {}, "bad gateway"

        Args:
            method: The method of the request, or ``*``.
            path: The path, which also matches below ``/api``; ``*`` stands for any part of it.
            answer: ``(status, headers, body)``, with a body of bytes, text, ``None`` or any JSON
                value; or a function that gets the :class:`~comfy_client.testing.Request` and
                returns such an answer.  It runs in a thread of its own and may wait;
                :meth:`answer` returns the server's own answer.  If it returns ``None``, it has
                written to ``request.socket`` itself, and the connection ends.  An exception, or
                any other value, ends the connection too, and is added to ``errors``.
            node: The class of nodes, or the id of one.
            image: The picture, or several, as bytes, a path or a Pillow image: an output node saves
                its bytes as they are, and outputs of type ``IMAGE`` have it.
            text: The text: of an output node, and of its outputs of type ``STRING``.  Other outputs
                have values of their types.
            ui: Outputs that clients are shown, such as ``{"text": ["..."]}``, beside the others.
            error: What the node raises: an exception, or the message of a RuntimeError.
            times: How many nodes answer so; ``None``: any number.

        Returns:
            A handle, whose ``with`` block or ``end()`` also removes the answer.  As a decorator,
            the function itself.

        Raises:
            ValueError: The method, path or answer is invalid.
            OSError: A picture cannot be read.
        """
        known = {"image": None, "text": None, "ui": None, "error": None, "times": None}
        if unknown := [name for name in of_node if name not in known]:
            raise TypeError(f"on() got an unexpected keyword argument {unknown[0]!r}")
        if path is None:
            if answer is not None:
                raise TypeError("on() has an answer, but no path of a route")
            return cast(Fault, answer_for(self._active, method, **{**known, **of_node}))
        if of_node:
            raise TypeError(f"an answer to a route takes no {next(iter(of_node))}")
        if answer is not None:
            return self.faults.answer(method, path, answer)

        def added(handler: _H) -> _H:
            self.faults.answer(method, path, handler)
            return handler

        return added

    def off(self, method: str, path: str | None = None) -> None:
        """Remove the answers that :meth:`on` set for exactly this method and path, or node."""
        for fault in self._active.find("answer"):
            if (fault.settings.method, fault.settings.path) == (method, path):
                fault.end()
        for fault in self._active.find(NODE_ANSWER):
            if path is None and fault.settings.node == method:
                fault.end()

    def answer(self, request: Request) -> Answer:
        """Return the server's own answer to a request, or that of the next fault; for handlers.

        The server executes the request.  JSON in the answer is decoded.

        Raises:
            ConnectionError: The next fault cuts the connection.
        """
        if request.path == "/ws":
            return upgrade(request)
        return decode(self._running().loop.wait(request.ask(request)), request.method)

    # -- messages -----------------------------------------------------------------------

    def push(self, message: Any, *, to: str | None = None, fragments: int = 1) -> None:
        """Send a JSON message to all clients, or to one by its id; return once it has been sent."""
        self._push(1, json.dumps(message).encode(), to, fragments)

    def push_binary(self, data: bytes, *, to: str | None = None, fragments: int = 1) -> None:
        """Send a binary message to all clients, or to one, as :meth:`push` does."""
        self._push(2, data, to, fragments)

    def push_status(self) -> None:
        """Send ``status`` to all clients: how many prompts are pending or running."""
        self.push({"type": "status", "data": {"status": self._running().queue_info()}})

    def push_raw(self, data: bytes, *, to: str | None = None) -> None:
        """Send raw bytes, such as frames that no server should send (see :func:`frame`)."""
        if not isinstance(data, bytes):
            raise ValueError(f"raw data must be bytes, not {data!r}")
        self._running().sockets.push(data, to)

    def _push(self, opcode: int, payload: bytes, to: str | None, fragments: int) -> None:
        check_count("fragments", fragments, 1)
        push(self._running(), opcode, payload, to, fragments)

    # -- prompts ------------------------------------------------------------------------

    def script(self, *steps: Step, timeout: float = 10.0, times: int | None = None) -> Fault:
        """Play these steps, one after the other, in place of every prompt from now on.

        Invalid prompts are played too.  A prompt whose script has neither :class:`Finish` nor
        :class:`Fail` runs until :meth:`finish` or :meth:`forget`.

        Args:
            steps: A mapping is a message for the prompt's client, with :data:`PROMPT_ID`
                replaced by its id; bytes are a binary message; a number is a pause in seconds; a
                ``threading.Event`` is waited for; :class:`Finish` writes the history;
                :class:`Fail` lets a node fail; a function is called with the prompt's id.
            timeout: Seconds that each event is waited for, at most; then the script ends with a
                TimeoutError, which is added to ``errors``.
            times: How many prompts are replaced; ``None``: any number.

        Returns:
            A handle: after its ``with`` block or ``end()``, new prompts are executed again.
            A script that is playing continues.
        """
        for step in steps:
            known = isinstance(step, Mapping | bytes | threading.Event | Finish | Fail)
            if isinstance(step, int | float):
                check_seconds(step, "a pause is")
            elif not known and not callable(step):
                raise ValueError(f"not a step of a script: {step!r}")
            message = step.entry if isinstance(step, Finish) else step
            if isinstance(message, Mapping):
                jsonable("a step of a script", message)
        return self._active.add("script", (steps, check_seconds(timeout)), times=times)

    @property
    def history(self) -> dict[str, Any]:
        """The history as ``GET /history`` returns it: a copy, by prompt id, oldest first."""
        return self._running().queue.history()

    @property
    def running(self) -> list[Any]:
        """The running prompts, as ``GET /queue`` lists them in ``queue_running``."""
        return self._running().queue.shown()["queue_running"]

    @property
    def pending(self) -> list[Any]:
        """The pending prompts as in ``queue_pending`` of ``GET /queue``: a heap, the next first."""
        return self._running().queue.shown()["queue_pending"]

    def finish(
        self,
        prompt_id: str,
        outputs: Mapping[str, Any] | None = None,
        *,
        messages: Collection[Any] = (),
        entry: Mapping[str, Any] | None = None,
    ) -> None:
        """Move a prompt from the queue to the history, and send ``status`` to all clients.

        Args:
            prompt_id: The id of a prompt in the queue, or any other id.
            outputs: The outputs by node id.
            messages: As in ``status.messages`` of the history.  The prompt counts as failed if
                one is ``execution_error`` or ``execution_interrupted``.
            entry: The whole entry of the history, in place of the other arguments.
        """
        finish(self._running(), prompt_id, outputs, messages, entry)

    # -- time ---------------------------------------------------------------------------

    @property
    def speed(self) -> float:
        """The factor by which simulated times are shorter; may be set.

        Setting it has an effect at once, also on a node that is waiting.  It raises ValueError
        unless the factor is above 0 and finite.
        """
        return self._clock.speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._clock.speed = speed

    @property
    def paused(self) -> bool:
        """Whether prompts stand still, since :meth:`pause`."""
        return self._clock.paused

    def pause(self, timeout: float = 30.0) -> None:
        """Let prompts stand still before their next node or progress, until :meth:`resume`.

        Prompts are still accepted; the first one begins, but none of its nodes does.  Simulated
        times stand still, too, and scripts before their next step.  An interrupt ends a prompt
        that stands still.  A restart does not end the pause.

        Args:
            timeout: How many seconds the running node may take to come so far.

        Raises:
            TimeoutError: It took longer.  It will stand still later.
        """
        is_coming: Callable[[], bool] = bool
        with contextlib.suppress(RuntimeError):  # it is not running
            is_coming = self._running().queue.is_waiting
        self._clock.pause(is_coming, timeout)
        self._flush()

    def step(self, count: int = 1, *, timeout: float = 30.0) -> int:
        """Let prompts that stand still go on by a node, or by a step of the sampler.

        A node that reports progress takes as many steps as it does so, any other takes one.
        Simulated times are left out.  When it returns, the events have been sent.

        Args:
            count: How many steps to make, 1 or more.
            timeout: How many seconds each may take.

        Returns:
            The number of steps that were made.  It is lower if no prompt is left: ``while
            server.step(): ...`` ends with the last prompt.

        Raises:
            RuntimeError: The server is not running, or not paused; or a node calls this.
            TimeoutError: A step took longer.
        """
        check_count("count", count, 1)
        queue, made = self._running().queue, 0
        while made < count and self._clock.step(queue.is_waiting, timeout):
            made += 1
        self._flush()
        return made

    def resume(self) -> None:
        """Let prompts go on after :meth:`pause`; idempotent."""
        self._clock.resume()

    def forget(self) -> None:
        """Clear the queue and the history, as a restart does; sockets stay open."""
        self.faults.lose_queue()
        self.faults.evict()
