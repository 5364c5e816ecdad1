"""Everything that goes wrong between a client and a ComfyUI, on command.

Each method of :attr:`ComfyServer.faults <comfy_client.testing.ComfyServer>` works on a running
server, from any thread.  A fault that lasts is a :class:`Fault`: it is active at once, until its
``with`` block ends, or until :meth:`Fault.end` or :meth:`Faults.clear`::

    with ComfyServer() as server, ComfyApi(server.url) as api:
        with server.faults.bad_gateway(503):
            job = api.submit("workflow.json")          # ... copes
        server.faults.drop()                           # all sockets, by a reset
        server.faults.cut("POST", "/prompt", ran=True, times=1)  # queued, and no answer

Method and path select routes; both may contain ``*``.  A path also matches below ``/api``,
unless it begins with ``/api`` itself.  The fault that was added last acts first; faults of
several kinds act together where that makes sense.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .active_faults import FOREIGN, JUNK, Fault
from .answer_faults import AnswerFaults
from .checks import check_count, check_seconds
from .websocket import EventSocket, frame

__all__ = ["FOREIGN", "JUNK", "OF_ONE_LIFE", "Fault", "Faults"]

#: They end with the sockets, or the thread, that they affect.
OF_ONE_LIFE = ("deaf", "go_dark", "freeze")
_OTHERS = ("active", "clear")


class Faults(AnswerFaults):
    """The faults of one server; see the module.

    They stay active over :meth:`~comfy_client.testing.ComfyServer.restart`, except those of
    open sockets (:meth:`deaf`, :meth:`go_dark`) and :meth:`freeze`.

    In all methods, `times` is how often a fault occurs before it ends by itself; ``None``: any
    number of times.  Arguments that make no sense are a ``ValueError`` at once.
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            known = [n for n in dir(type(self)) if not n.startswith("_") and n not in _OTHERS]
            near = difflib.get_close_matches(name, known, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise AttributeError(f"no fault {name!r}: {hint}")

    def __repr__(self) -> str:
        return f"<Faults: {', '.join(f.name for f in self.active()) or 'none'}>"

    def clear(self) -> None:
        """End all faults, and all answers and scripts of ``server.on`` and ``server.script``."""
        self._faults.clear()

    def active(self, *names: str) -> list[Fault]:
        """The active faults (of these names), the last one first."""
        return [*self._faults.find(*names)]

    # -- sockets ------------------------------------------------------------------------

    def drop(self, *, reset: bool = True) -> None:
        """End all open sockets abruptly: with a RST, or with a bare FIN."""
        state = self._running()
        state.sockets.flush()
        for link in state.sockets.open:
            state.loop.call(link.hang_up, reset)

    def close_politely(self, code: int = 1001, reason: str = "") -> None:
        """Send a close frame to all open sockets.

        Raises:
            ValueError: A code that is not 1000 to 4999, or a reason above 123 bytes.
        """
        check_count("code", code, 1000, 4999)
        if not isinstance(reason, str) or len(reason.encode()) > 123:
            raise ValueError(f"a reason is a text of up to 123 bytes, not {reason!r}")
        data = code.to_bytes(2, "big") + reason.encode()
        self._running().sockets.push(frame(8, data), everybody=True)

    def deaf(self) -> Fault:
        """The open sockets get no more messages; pings are still answered."""
        return self._on_open_sockets("deaf", EventSocket.mute, EventSocket.unmute)

    def go_dark(self) -> Fault:
        """The open sockets are neither read nor written, and not closed.

        This is like a router that forgot them.  New sockets and HTTP work.  When the fault ends,
        the server reads what clients have sent; they never get the messages they missed.
        """
        return self._on_open_sockets("go_dark", EventSocket.pause, EventSocket.resume)

    def _on_open_sockets(
        self,
        name: str,
        do: Callable[[EventSocket], None],
        undo: Callable[[EventSocket], None],
    ) -> Fault:
        state = self._running()
        state.sockets.flush()
        links = state.sockets.open
        for link in links:
            state.loop.call(do, link)

        def undone() -> None:
            for link in links:  # not waited for: the server may be frozen, or have stopped
                state.loop.later(undo, link)

        return self._faults.add(name, undo=undone)

    def stale_handlers(self) -> Fault:
        """A socket that ends removes the route of the next one with its client id.

        This is a race in ComfyUI: the handler of the old socket removes its client id only after
        the client has reconnected, and the new socket with it, which then gets no messages,
        although pings are answered.  Until the client reconnects, the old one seems open.
        """
        return self._faults.add("stale_handlers")

    def freeze(self) -> Fault:
        """The whole server neither reads nor writes; connections are accepted but not served.

        This is like a machine that sleeps, or a ComfyUI that is loading a model; a running prompt
        continues.  Nothing is lost: waiting requests are handled when the fault ends.
        """
        state = self._running()
        state.sockets.flush()
        return self._faults.add("freeze", undo=state.loop.freeze())

    def swallow_pings(self) -> Fault:
        """Pings are read and counted, but not answered."""
        return self._faults.add("swallow_pings")

    # -- messages -----------------------------------------------------------------------

    def lose(self, *events: str | Callable[[str | int, Any], object]) -> Fault:
        """Events of these names (``*`` for a part) are not sent to anyone.

        ``"binary"`` stands for binary messages, ``"executing null"`` for the end marker.
        Without a name, all events.  A function is asked about each event, by its name and data.
        """
        return self._faults.add("lose", (_chosen(events), None))

    def withhold(self, *events: str | Callable[[str | int, Any], object]) -> Fault:
        """As :meth:`lose`, but the events are sent in their order when the fault ends."""
        kept: list[tuple[Any, ...]] = []

        def send() -> None:
            with contextlib.suppress(RuntimeError):
                state = self._running()
                for message in kept:
                    state.send(*message)

        return self._faults.add("withhold", (_chosen(events), kept), undo=send)

    def no_feature_flags(self) -> Fault:
        """Feature flags of clients are ignored, as by servers before 0.3.45.

        They get no ``feature_flags``, and previews without metadata.
        """
        return self._faults.add("no_feature_flags")

    def junk(self) -> Fault:
        """Before each message, send one that no server should send.

        These are text that is no JSON or no UTF-8, lists, ``null``, and binary messages that are
        too short, of an unknown kind, or with too long metadata: :data:`JUNK`, in turn.
        """
        return self._faults.add("junk")

    def foreign_traffic(self) -> Fault:
        """Before each message, send one that does not concern the client.

        These are events of other clients' prompts and of extensions (``crystools.monitor``), with
        ``data`` that is a list or ``null``: :data:`FOREIGN`, in turn.
        """
        return self._faults.add("foreign_traffic")

    def fragments(self, parts: int = 3) -> Fault:
        """Each message is sent in so many frames, with a ping between them."""
        return self._faults.add("fragments", check_count("parts", parts, 2))

    def pause_in_frames(self, seconds: float) -> Fault:
        """Each message pauses for so many seconds in the middle of its frame."""
        return self._faults.add("pause_in_frames", check_seconds(seconds))

    def oversized_frame(self, size: int = 600 * 2**20) -> None:
        """Announce a binary frame of `size` bytes to all open sockets, and send none of it.

        Everything sent to them later counts as its content, so they never recover.
        """
        check_count("size", size, 0, 2**63 - 1)
        self._running().sockets.push(b"\x82\x7f" + size.to_bytes(8, "big"), everybody=True)

    # -- prompts ------------------------------------------------------------------------

    def late_history(self, seconds: float | None = None) -> Fault:
        """Prompts stay in the queue for so many seconds after ``execution_success``.

        ``None``: until the fault ends.  Only then do their history and ``executing`` without a
        node follow.
        """
        return self._faults.add("late_history", None if seconds is None else check_seconds(seconds))

    def no_history(self) -> Fault:
        """Prompts that end leave no history, as if it were evicted at once."""
        return self._faults.add("no_history")

    def evict(self, prompt_id: str | None = None) -> None:
        """Delete a prompt from the history, or all prompts, without an event."""
        self._running().queue.forget(prompt_id)

    def lose_queue(self) -> None:
        """Pending and running prompts vanish, without an event and without a history."""
        self._running().lose_queue()

    def hang_worker(self) -> Fault:
        """Prompts run forever: no node starts or continues, and HTTP works.

        An interrupt changes nothing, as if the thread had died.
        """
        return self._faults.add("hang_worker")


def _chosen(events: tuple[Any, ...]) -> tuple[Any, ...]:
    for event in events:
        if not isinstance(event, str) and not callable(event):
            raise ValueError(f"an event is chosen by its name or a function, not {event!r}")
    return events or ("*",)
