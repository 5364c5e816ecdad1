"""What a test does with a running server: read requests, set answers, push events, script.

:class:`Stage` is the part of :class:`~comfy_client.testing.ComfyServer` for that::

    server.on("GET", "/queue", (502, {}, "bad gateway"))       # a fixed answer
    server.on("GET", "/view*", cut((200, {}, bytes(1000)), 10))  # a broken one
    server.script(                                             # what prompts do from now on
        {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}},
        may_go_on,                                             # a threading.Event
        Finish(),
    )
    server.until(lambda: len(server.hellos) == 2)              # instead of sleeping
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs

from .faults import Fault, Faults, count, jsonable
from .traffic import Answer, Handler, Ran, Request, decode, pieces, upgrade

if TYPE_CHECKING:
    from .server import Core
    from .traffic import Link

#: Stands for the id of the prompt in the steps of a script.
PROMPT_ID = "00000000-0000-4000-8000-000000000000"
_LIMIT = 10.0  # seconds that any wait in here may take
_REQUESTS_KEPT, _BYTES_KEPT, _OTHERS_KEPT = 10_000, 64 * 2**20, 100_000

_T = TypeVar("_T")
_H = TypeVar("_H", bound=Handler)


@attrs.frozen
class Finish:
    """Step of a script: the prompt leaves the queue and appears in the history.

    Attributes:
        entry: The complete entry of ``GET /history/{prompt_id}``; ``None``: its outputs and
            messages are those that the script has sent.
    """

    entry: Mapping[str, Any] | None = None


#: dict: a message for the prompt's client, with :data:`PROMPT_ID` replaced; bytes: a binary one;
#: Event: waited for, 10 seconds at most; a function is called with the prompt's id.
Step = Mapping[str, Any] | bytes | threading.Event | Finish | Callable[[str], object]


@attrs.frozen
class Socket:
    """One open WebSocket, from the server's side."""

    client_id: str
    _link: Link = attrs.field(repr=False)
    _core: Core = attrs.field(repr=False)

    def hang_up(self, *, reset: bool = True) -> None:
        """End it abruptly: with a RST, or with a bare FIN."""
        self._core.call(self._link.hang_up, reset)


class Stage:
    """What a server has received, and how a test sets its answers; see the module.

    :class:`~comfy_client.testing.ComfyServer` describes the attributes.
    """

    def __init__(self, prefix: str) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.handshakes: list[Mapping[str, str]] = []
        self.hellos: list[str] = []
        self.first_messages: list[Any] = []
        self.messages: list[Any] = []
        self.pings = 0
        self.ran: list[Ran] = []
        self.errors: list[BaseException] = []
        self.faults: Faults = Faults(self)
        self._prefix = prefix
        self._changed = threading.Condition()  # guards the above, told of each change
        self._bytes = 0

    def _running(self) -> Core:
        raise NotImplementedError

    # -- what clients sent --------------------------------------------------------------

    def _keep(self, kept: list[_T], item: _T) -> None:
        with self._changed:
            kept.append(item)
            if len(kept) > _OTHERS_KEPT:
                del kept[: _OTHERS_KEPT // 10]
            self._changed.notify_all()

    def _keep_request(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._bytes += len(request.body)
            if self._bytes > _BYTES_KEPT or len(self.requests) > _REQUESTS_KEPT:
                self._bytes = sum(len(one.body) for one in self.requests)
                while len(self.requests) > _REQUESTS_KEPT or (
                    self._bytes > _BYTES_KEPT and len(self.requests) > 1
                ):
                    self._bytes -= len(self.requests.pop(0).body)
            self._changed.notify_all()

    def _count(self, what: str) -> None:
        with self._changed:
            setattr(self, what, getattr(self, what) + 1)
            self._changed.notify_all()

    def until(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until `predicate` holds; AssertionError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not predicate():  # outside the lock: it may ask this server something
            if time.monotonic() > end:
                raise AssertionError(f"did not come true within {timeout} s")
            with self._changed:
                self._changed.wait(0.01)

    @property
    def sockets(self) -> list[Socket]:
        """The sockets that are open now."""
        core = self._running()
        return [Socket(link.client_id, link, core) for link in core.links]

    @property
    def open_connections(self) -> int:
        """How many TCP connections are open now."""
        return self._running().open_connections

    # -- answers ------------------------------------------------------------------------

    @overload
    def on(self, method: str, path: str, answer: Answer | Handler) -> Fault: ...
    @overload
    def on(self, method: str, path: str) -> Callable[[_H], _H]: ...
    def on(
        self, method: str, path: str, answer: Answer | Handler | None = None
    ) -> Fault | Callable[[_H], _H]:
        """Set the answer of a route until :meth:`off`; the last one added wins.

        Without an answer, it is a decorator for the function that makes them::

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

        Returns:
            A handle, whose ``with`` block or ``end()`` also removes the answer.  As a decorator,
            the function itself.

        Raises:
            ValueError: The method, path or answer is invalid.
        """
        if answer is not None:
            return self.faults.answer(method, path, answer)

        def added(handler: _H) -> _H:
            self.faults.answer(method, path, handler)
            return handler

        return added

    def off(self, method: str, path: str) -> None:
        """Remove the answers that :meth:`on` set for exactly this method and path."""
        for fault in self.faults.active("answer"):
            if (fault._settings.method, fault._settings.path) == (method, path):
                fault.end()

    def answer(self, request: Request) -> Answer:
        """The answer of the server itself, or of the next fault; for handlers.

        The server executes the request.  JSON in the answer is decoded.

        Raises:
            ConnectionError: The next fault cuts the connection.
        """
        if request.path == "/ws":
            return upgrade(request)
        core = self._running()
        return decode(core.wait(core.loopback(request)), request.method)

    # -- messages -----------------------------------------------------------------------

    def push(self, message: Any, *, to: str | None = None, fragments: int = 1) -> None:
        """Send JSON to all sockets, or to that of one client id; it is sent when this returns."""
        self._push(1, json.dumps(message).encode(), to, fragments)

    def push_binary(self, data: bytes, *, to: str | None = None, fragments: int = 1) -> None:
        """Send a binary message, as :meth:`push` does."""
        self._push(2, data, to, fragments)

    def push_status(self) -> None:
        """Send ``status`` to all sockets: how many prompts are pending or running."""
        self.push({"type": "status", "data": {"status": self._running().queue_info()}})

    def push_raw(self, data: bytes, *, to: str | None = None) -> None:
        """Send bytes unchanged, for frames that no server should send (see :func:`frame`)."""
        if not isinstance(data, bytes):
            raise ValueError(f"what is sent as it is are bytes, not {data!r}")
        self._running().push(data, to)

    def _push(self, opcode: int, payload: bytes, to: str | None, fragments: int) -> None:
        count("fragments", fragments, 1)
        self.push_raw(b"".join(pieces(opcode, payload, fragments)), to=to)

    # -- prompts ------------------------------------------------------------------------

    def script(self, *steps: Step) -> Fault:
        """Play these steps, one after the other, in place of every prompt from now on.

        Invalid prompts are played too.  A prompt whose script has no :class:`Finish` runs until
        :meth:`finish` or :meth:`forget`.

        Args:
            steps: A mapping is a message for the prompt's client, with :data:`PROMPT_ID`
                replaced by its id; bytes are a binary message; a ``threading.Event`` is waited
                for, 10 seconds at most; :class:`Finish` writes the history; a function is called
                with the prompt's id.

        Returns:
            A handle: after its ``with`` block or ``end()``, new prompts are executed again.
            A script that is playing continues.
        """
        for step in steps:
            known = isinstance(step, Mapping | bytes | threading.Event | Finish)
            if not known and not callable(step):
                raise ValueError(f"no step of a script: {step!r}")
            message = step.entry if isinstance(step, Finish) else step
            if isinstance(message, Mapping):
                jsonable("a step of a script", message)
        return self.faults._add("script", steps)

    @property
    def history(self) -> dict[str, Any]:
        """The answer of ``GET /history``: a copy, by prompt id, oldest first."""
        return self._running().queue.history()

    @property
    def running(self) -> list[Any]:
        """``queue_running`` of ``GET /queue``."""
        return self._running().queue.shown()["queue_running"]

    @property
    def pending(self) -> list[Any]:
        """``queue_pending`` of ``GET /queue``: a heap, the next one first."""
        return self._running().queue.shown()["queue_pending"]

    def finish(
        self,
        prompt_id: str,
        outputs: Mapping[str, Any] | None = None,
        *,
        messages: Collection[Any] = (),
        entry: Mapping[str, Any] | None = None,
    ) -> None:
        """Move a prompt from the queue to the history, and send ``status`` to all.

        Args:
            prompt_id: The id of a prompt in the queue, or any other id.
            outputs: The outputs by node id.
            messages: As in ``status.messages`` of the history.  The prompt counts as failed if
                one is ``execution_error`` or ``execution_interrupted``.
            entry: The whole entry of the history, in place of the other arguments.
        """
        failed = {m[0] for m in messages} & {"execution_error", "execution_interrupted"}
        status = {
            "status_str": "error" if failed else "success",
            "completed": not failed,
            "messages": list(messages),
        }
        made = {"outputs": dict(outputs or {}), "status": status, "meta": {}}
        result = dict(entry) if entry else made
        core = self._running()
        core.ended(prompt_id, (result.get("status") or {}).get("status_str"))
        core.queue.settle(prompt_id, result)

    def forget(self) -> None:
        """Lose queue and history, as after a restart; sockets stay open."""
        self.faults.lose_queue()
        self.faults.evict()


def play(
    stage: Stage, core: Core, steps: Sequence[Step], prompt_id: str, client_id: str | None
) -> None:
    """Play a script for one prompt, and wait until that has left the queue."""
    outputs: dict[str, Any] = {}
    messages: list[Any] = []
    queue = core.queue
    for step in steps:
        if queue.closed:
            return
        if isinstance(step, Mapping):
            event = _renamed(step, prompt_id)
            data = event.get("data")
            if event.get("type") == "executed":
                outputs[data["node"]] = data["output"]
            elif str(event.get("type")).startswith("execution_"):
                messages.append([event["type"], data])
            if event.keys() == {"type", "data"}:
                core.send(event["type"], data, client_id)
            else:
                stage.push(event, to=client_id)
        elif isinstance(step, bytes):
            stage.push_binary(step.replace(PROMPT_ID.encode(), prompt_id.encode()), to=client_id)
        elif isinstance(step, threading.Event):
            core.flush()
            end = time.monotonic() + _LIMIT
            while not step.wait(0.02) and not queue.closed:
                if time.monotonic() > end:
                    raise TimeoutError(f"the script waited {_LIMIT} s for an event")
        elif isinstance(step, Finish):
            entry = step.entry and _renamed(step.entry, prompt_id)
            stage.finish(prompt_id, outputs, messages=messages, entry=entry)
        else:
            core.flush()
            step(prompt_id)
    core.flush()
    while queue.running_id == prompt_id and not queue.closed:
        with stage._changed:
            stage._changed.wait(0.02)


def _renamed(data: Mapping[str, Any], prompt_id: str) -> Any:
    return json.loads(json.dumps(data).replace(PROMPT_ID, prompt_id))
