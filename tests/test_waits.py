"""Waits in the sources: where Ctrl-C ends none, as on Windows, each is short.

The classes of ``runtime`` and the sockets of ``transport/sockets.py`` wait in slices there, so
whatever waits for one of them is fine.  Any other wait stands in the table, with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.walks import MODULES, nodes

#: The rooms of sliced waits, and the one that is no part of a user's program.
OTHERS = ("comfy_client.runtime", "comfy_client.transport.sockets", "comfy_client.testing")
#: What waits without slices; ``time.sleep`` is interrupted everywhere.
UNSLICED = {
    "threading.Event": "runtime.Event",
    "threading.Condition": "runtime.Condition",
    "threading.Barrier": "runtime.Condition",
    "threading.Semaphore": "runtime.Condition",
    "queue.Queue": "SimpleQueue, whose waits stand in the table",
    "Queue": "SimpleQueue, whose waits stand in the table",
    "socket.socket": "sockets.new_socket",
    "socket.create_connection": "sockets.connect",
    "socket.getaddrinfo": "sockets.look_up",
    "select.select": "a socket with a timeout",
    "select.poll": "a socket with a timeout",
    "ThreadPoolExecutor": "threads, and a wait for an event",
    "runtime.ThreadPoolExecutor": "threads, and a wait for an event",
    "subprocess.run": "Popen, and poll()",
    "input": "nothing",
}
#: The methods of locks and queues, which are C and wait without slices, too.
OF_LOCKS = ("acquire", "get")
#: Context variables, whose ``get`` does not wait.
VARIABLES = ("current", "read_timeout", "limits", "parallel_calls", "check_ended", "_reading")

#: Waits that are no classes of ``runtime``, and why each is short.
ALLOWED = {
    ("batch.items", "asks.get()"): "in a thread of the library",
    ("batch.items", "self._news.get(timeout=max(0.0, seconds))"): "callers wait for half a second",
    ("batch.map_loop", "acquire(timeout=left)"): "called in slices",
    ("cli.completion", "answers.get(timeout=limit)"): "the shell waits no longer either",
    ("cli.several_servers", "ended.get(timeout=runtime.SLICE)"): "a slice",
    ("cli.server_commands", "inbox.get(timeout=runtime.SLICE)"): "a slice",
    ("cli.watch_command", "inbox.get(timeout=runtime.SLICE)"): "a slice",
    (
        "cli.watch_command",
        "inbox.get(timeout=min(runtime.SLICE, max(0.01, due - time.monotonic())))",
    ): "a slice at most",
    ("distributed.task", "ThreadPoolExecutor(_AT_ONCE)"): "in a thread of a Dask worker",
    ("doctor.examine", "results.get(timeout=deadline.left(0.25))"): "a slice",
    ("ext.providing", "input('Shall the server get this? [y/N] ')"): "the user is asked",
    ("interrupts", "self.limit(value).acquire()"): "of a lock that nobody else knows",
    ("jobs.handle", "ended.acquire()"): "of a lock that nobody else knows",
    ("pool.dispatcher", "todo.get(timeout=left)"): "in a thread of the library",
    ("mcp.protocol", "ThreadPoolExecutor(_THREADS, 'comfy-mcp')"): "an event loop waits for it",
    ("pool.membership", "runtime.ThreadPoolExecutor(max(1, len(servers)))"): (
        "five seconds, in which prompts are taken back after Ctrl-C"
    ),
    ("reading", "select.poll()"): "asked in slices, and not there on Windows",
    ("showing.bars", "select.select([], [stream], [], 0)"): "no wait",
}


def found() -> Iterator[tuple[str, str]]:
    """Yield the waits without slices: the module, and the source of the call."""
    for name in MODULES:
        if name.startswith(OTHERS):
            continue
        for node in nodes(name):
            if isinstance(node, ast.Call) and _may_wait(node):
                yield name.removeprefix("comfy_client."), ast.unparse(node)


def _may_wait(call: ast.Call) -> bool:
    called = ast.unparse(call.func)
    owner, _, method = called.rpartition(".")
    options = {each.arg: ast.unparse(each.value) for each in call.keywords}
    if method not in OF_LOCKS or owner.rpartition(".")[2] in VARIABLES or called == "get":
        return called in UNSLICED
    if "False" in (options.get("blocking"), options.get("block")):
        return False
    return "timeout" in options or not call.args


def test_each_wait_without_slices_is_short() -> None:
    """In the thread of a user, who presses Ctrl-C; what is gone has no reason left."""
    assert set(found()) == ALLOWED.keys()


@pytest.mark.parametrize(
    ("source", "may_wait"),
    [
        ("threading.Event()", True),
        ("lock.acquire()", True),
        ("lock.acquire(timeout=9)", True),
        ("lock.acquire(blocking=False)", False),
        ("inbox.get()", True),
        ("names.get(name)", False),
        ("current.get()", False),
        ("socket.create_connection(address, 5)", True),
        ("runtime.Event()", False),
    ],
)
def test_a_wait_without_slices_is_seen(source: str, may_wait: bool) -> None:
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    assert _may_wait(call) is may_wait
