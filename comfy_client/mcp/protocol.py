"""The Model Context Protocol over stdio and HTTP; the only module that knows its library."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import functools
import hmac
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import anyio
import mcp_types as types
import uvicorn
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

from .._version import __version__
from ..client import ComfyApi
from ..errors import ComfyError
from ..jobs.job import Job
from .answers import CallRefused, ToolAnswer, error_answer, status_of, unfinished
from .desk import TEMPLATES, Desk
from .roots import Roots
from .runs import AgentOptions, Begun, Runs
from .toolbox import INSTRUCTIONS, LONGEST_WAIT, TOOLS, AgentTool, own_tools

log: logging.Logger = logging.getLogger("comfy_client")

#: The longest that a call takes, in seconds.
LONGEST_CALL: Final = 54.0
#: Seconds between two looks at a job's progress.
_PAUSE: Final = 0.5
#: Seconds to make the tools of workflows, as some need the server's definitions.
_TOOLS_LIMIT: Final = 15.0
#: How many requests to the server of all calls are under way.
_THREADS: Final = 16
#: A request's context in the library.
_RequestContext = ServerRequestContext[Any, Any]
#: Reports progress from 0 to 1, with a message.
_Tell = Callable[[float, str], Awaitable[None]]


class Door:
    """The tools, as the protocol calls them.

    Attributes:
        server: The library's server.
        was_asked: Whether the agent cancelled the request with an id.  All other cancelled calls
            end because the host or this process does: their prompts go on.
    """

    def __init__(
        self,
        api: ComfyApi,
        roots: Roots,
        options: AgentOptions,
        *,
        with_own_tools: bool = False,
        longest_call: float = LONGEST_CALL,
    ) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "comfy-mcp")
        self._desk = Desk(api, roots, Runs(api, options, self._threads))
        self._with_own_tools = with_own_tools
        self._longest_call = longest_call
        self.was_asked: Callable[[object], bool] = lambda _: True
        self.server: Server[Any] = Server(
            "comfy-client",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    def close(self) -> None:
        """Send nothing more; prompts go on."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- what the protocol asks ------------------------------------------------------------

    async def _list_tools(self, ctx: _RequestContext, params: object) -> types.ListToolsResult:
        tools = [*TOOLS, *(await self._own_tools()).values()]
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=one.name,
                    description=one.description,
                    input_schema=one.schema,
                    annotations=types.ToolAnnotations(read_only_hint=True)
                    if one.is_reading
                    else None,
                )
                for one in tools
            ]
        )

    async def _call_tool(
        self, ctx: _RequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        async def tell(share: float, message: str) -> None:
            await ctx.session.report_progress(share, 1.0, message)

        given = params.arguments or {}
        try:
            tool = await self._tool(params.name)
            arguments = tool.checked(given)
            if tool.name == "job" or "key" in tool.properties:
                answer = await self._run_or_job(ctx, tool, arguments, tell)
            else:
                with _limit(self._longest_call):
                    work = functools.partial(getattr(self._desk, tool.name), **arguments)
                    answer = await self._in_thread(work)
        except Exception as exc:  # noqa: BLE001  # each becomes an answer
            answer = _error(exc)
        return _result(answer)

    async def _list_resources(
        self, ctx: _RequestContext, params: object
    ) -> types.ListResourcesResult:
        found = await self._in_thread(self._desk.workflows)
        resources = [
            types.Resource(uri=uri, name=name, mime_type="application/json")
            for uri, name in found.items()
        ]
        return types.ListResourcesResult(resources=resources)

    async def _list_templates(
        self, ctx: _RequestContext, params: object
    ) -> types.ListResourceTemplatesResult:
        templates = [
            types.ResourceTemplate(uri_template=uri, name=uri.split("/")[2], description=text)
            for uri, text in TEMPLATES.items()
        ]
        return types.ListResourceTemplatesResult(resource_templates=templates)

    async def _read_resource(
        self, ctx: _RequestContext, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        try:
            with _limit(self._longest_call):
                content, mime = await self._in_thread(functools.partial(self._desk.read, uri))
        except Exception as exc:  # noqa: BLE001  # each becomes an answer
            raise MCPError(types.INVALID_PARAMS, _error(exc).text) from None
        one: types.TextResourceContents | types.BlobResourceContents
        if isinstance(content, str):
            one = types.TextResourceContents(uri=uri, mime_type=mime, text=content)
        else:
            blob = base64.b64encode(content).decode()
            one = types.BlobResourceContents(uri=uri, mime_type=mime, blob=blob)
        return types.ReadResourceResult(contents=[one])

    # -- tools ---------------------------------------------------------------------------

    async def _own_tools(self) -> dict[str, AgentTool]:
        if self._with_own_tools:
            with anyio.move_on_after(_TOOLS_LIMIT):
                found: dict[str, AgentTool] = await self._in_thread(self._made_tools)
                return found
        return {}

    def _made_tools(self) -> dict[str, AgentTool]:
        def loaded() -> Iterator[tuple[str, Any]]:
            for name in self._desk.roots.workflows():
                with contextlib.suppress(ComfyError, OSError):  # no workflow, or nobody converts it
                    yield name, self._desk.load(name)

        return own_tools(loaded())

    async def _tool(self, name: str) -> AgentTool:
        tools = {one.name: one for one in TOOLS}
        tool = tools.get(name) or (await self._own_tools()).get(name)
        if tool is None:
            raise CallRefused(
                "unknown_tool", f"there is no tool {name!r:.80}", "list the tools again"
            )
        return tool

    async def _run_or_job(
        self, ctx: _RequestContext, tool: AgentTool, arguments: dict[str, Any], tell: _Tell
    ) -> ToolAnswer:
        """Run a workflow, or look at a prompt, within the time for a call."""
        wait = arguments.pop("wait", LONGEST_WAIT)
        runs = self._desk.runs
        if tool.name == "job":
            begun = runs.find(arguments["prompt_id"])
        else:
            begun = await self._begin(tool, arguments, tell)
        try:
            with anyio.move_on_after(self._longest_call):
                await _bell(begun.job).wait()
                if arguments.get("cancel"):
                    await self._in_thread(functools.partial(runs.stop, begun))
                return await self._followed(begun.job.result(), wait, tell)
            return unfinished(_id(begun), begun.job.result() if begun.job.done() else None)
        except anyio.get_cancelled_exc_class():
            if self.was_asked(ctx.request_id):
                runs.drop(begun)
            raise
        except Exception as exc:  # noqa: BLE001  # each becomes an answer
            status = status_of(exc) if begun.was_sent else "not_sent"
            if status == "interrupted" and arguments.get("cancel"):
                return ToolAnswer({"prompt_id": _id(begun), "status": status})
            return _error(exc, prompt_id=_id(begun), status=status)

    async def _begin(self, tool: AgentTool, given: dict[str, Any], tell: _Tell) -> Begun:
        """Begin a run; its id is told first."""
        key = given.pop("key", None)
        source, inputs = given.pop("workflow", tool.workflow), given.pop("inputs", given)
        runs = self._desk.runs
        prompt_id = runs.new_id(key)
        await tell(0.0, f"prompt {prompt_id}: it is checked, and then sent")
        prepare = self._desk.preparing(source, inputs)
        try:
            return runs.begin(prompt_id, [source, inputs], prepare, may_exist=key is not None)
        except CallRefused as exc:
            raise _KnownError(exc, prompt_id=prompt_id, status="not_sent") from None

    async def _followed(self, job: Job, wait: float, tell: _Tell) -> ToolAnswer:
        """Wait for the end of a job; report progress, which only grows."""
        bell, told, ends = _bell(job), 0.0, time.monotonic() + wait
        while not job.done() and time.monotonic() < ends:
            grown = max(job.progress.fraction, told + (1 - told) / 1000)  # each must be more
            if grown > told:
                told = grown
                await tell(told, job.why())
            with anyio.move_on_after(min(_PAUSE, ends - time.monotonic())):
                await bell.wait()
        if not job.done():
            return unfinished(job.prompt_id, job)
        answer: ToolAnswer = await self._in_thread(functools.partial(self._desk.finished, job))
        return answer

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """Call a function that blocks; if the call is cancelled, it goes on unheard."""
        found = self._threads.submit(work)
        await _bell(found).wait()
        return found.result()


class _KnownError(Exception):
    """An error, with facts for its answer."""

    def __init__(self, error: Exception, **facts: Any) -> None:
        super().__init__(str(error))
        self.error = error
        self.facts = facts


# -- waits ------------------------------------------------------------------------------


def _bell(found: Future[Any]) -> anyio.Event:
    """Return an event that is set once a future has ended."""
    loop, bell = asyncio.get_running_loop(), anyio.Event()

    def ring(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(bell.set)

    found.add_done_callback(ring)
    return bell


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Context manager: give a call that is no run its time."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:  # other errors are a TimeoutError, too
        said = f"no answer of the server within {seconds:g} s"
        raise CallRefused("timeout", said, "call server(), and try again later")


# -- answers ----------------------------------------------------------------------------


def _error(error: Exception, **known: Any) -> ToolAnswer:
    """Return the answer for an error; one that nobody foresaw goes to the log, not to the agent."""
    if isinstance(error, _KnownError):
        return error_answer(error.error, **error.facts)
    if isinstance(error, (ComfyError, CallRefused, OSError, ValueError, TypeError)):
        return error_answer(error, **known)
    log.error("a call failed", exc_info=error)
    refusal = CallRefused("internal_error", "this server has a fault", "tell the user; see its log")
    return error_answer(refusal, **known)


def _id(begun: Begun) -> str:
    """Return the id of a prompt; servers before ComfyUI 0.3.45 choose one themselves."""
    has_job = begun.job.done() and begun.job.exception() is None
    return begun.job.result().prompt_id if has_job else begun.prompt_id


def _result(answer: ToolAnswer) -> types.CallToolResult:
    content: list[types.ContentBlock] = [types.TextContent(text=answer.text)]
    content += [
        types.ImageContent(data=base64.b64encode(one.content).decode(), mime_type=one.mime)
        for one in answer.pictures
    ]
    content += [
        types.ResourceLink(uri=one.uri, name=one.name, mime_type=one.mime) for one in answer.links
    ]
    return types.CallToolResult(content=content, is_error=answer.is_error)


# -- transports -------------------------------------------------------------------------


def serve_stdio(door: Door) -> None:
    """Serve the host that started this process, until it closes the standard input."""
    try:
        anyio.run(_serve_stdio, door)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _serve_stdio(door: Door) -> None:
    with _cancelled_by_signals():
        await _serve_lines(door)


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Context manager: let signals cancel this task; one that raises inside a task is logged."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def cancel(*_: object) -> None:
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            try:
                loop.add_signal_handler(number, cancel)  # wakes the loop, whichever thread gets it
            except NotImplementedError:  # Windows
                signal.signal(number, cancel)
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def _serve_lines(door: Door) -> None:
    cancelled: set[str] = set()
    door.was_asked = lambda request_id: str(request_id) in cancelled
    lines: Any = _lines()
    async with stdio_server(lines) as (read, write), anyio.create_task_group() as group:
        send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def relay() -> None:
            async with send:
                async for item in read:
                    cancelled.update(_cancelled_by(item))
                    await send.send(item)

        group.start_soon(relay)
        await door.server.run(receive, write, door.server.create_initialization_options())
        group.cancel_scope.cancel()


async def _lines() -> AsyncIterator[str]:
    """Yield the lines of the standard input.

    A daemon reads them, so that a signal ends this process although the host says nothing.
    """
    loop = asyncio.get_running_loop()
    send, receive = anyio.create_memory_object_stream[bytes](0)

    def read() -> None:
        rest = b""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            while piece := os.read(0, 1 << 16):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    asyncio.run_coroutine_threadsafe(send.send(line), loop).result()
            loop.call_soon_threadsafe(send.close)

    threading.Thread(target=read, name="comfy-stdin", daemon=True).start()
    async with receive:
        async for line in receive:
            yield line.decode("utf-8", "replace")


def _cancelled_by(item: SessionMessage | Exception) -> Iterable[str]:
    """Return the id of the request that a message cancels, if it does."""
    match item:
        case SessionMessage(message=types.JSONRPCNotification() as note):
            if note.method == "notifications/cancelled":
                return [str((note.params or {}).get("requestId"))]
    return []


def serve_http(
    door: Door, address: tuple[str, int], token: str, ready: Callable[[str], Any]
) -> None:
    """Serve hosts on this machine that have the token, until Ctrl-C.

    Args:
        door: The tools.
        address: A loopback address, and a port; 0: any.
        token: The bearer token of each request.
        ready: Called with the URL once the port is open.

    Raises:
        OSError: The port cannot be opened, as another program uses it.
    """
    host = address[0]
    with _listener(address) as listener:
        # Refuses other names in Host and Origin, as those of a page that a browser shows.
        app = _guarded(door.server.streamable_http_app(host=host), token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        door.was_asked = lambda _: not server.should_exit
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}/mcp")
        server.run([listener])


def _listener(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(address, family=family)
    except OSError as exc:
        step = "name another port with --http, or end the program that uses it"
        advice = f"; {step}" if exc.errno == errno.EADDRINUSE else ""
        why = str(exc.strerror or exc).partition(" (while")[0]
        raise OSError(exc.errno, f"cannot listen on {host}:{port}: {why}{advice}") from exc


def _guarded(app: Any, token: str) -> Any:
    """Return an ASGI application that answers only requests with the token."""
    wanted = f"Bearer {token}".encode()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers") or ()).get(b"authorization", b"")
        if scope["type"] == "lifespan" or hmac.compare_digest(given, wanted):
            await app(scope, receive, send)
            return
        headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return guarded
