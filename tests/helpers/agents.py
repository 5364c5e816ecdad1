"""The official client of the Model Context Protocol, as a test calls it: blocking."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx2
import mcp_types as types
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from comfy_client import ComfyApi
from comfy_client.mcp.protocol import Door
from comfy_client.mcp.roots import Roots
from comfy_client.mcp.runs import AgentOptions
from tests.helpers.command_line import CommandLine

MARK = {"comfy_client_cli": "these.tests"}
#: By which the command has the same mark.
VARIABLES = {"COMFYUI_INSTALLATION_ID": MARK["comfy_client_cli"]}
TOKEN = "a token of more than 16 characters"


@attrs.frozen
class Answered:
    """The answer to a call."""

    facts: dict[str, Any]
    pictures: list[types.ImageContent]
    links: list[types.ResourceLink]
    is_error: bool

    @classmethod
    def of(cls, result: types.CallToolResult) -> Answered:
        text, *more = result.content
        assert isinstance(text, types.TextContent)
        return cls(
            json.loads(text.text),
            [one for one in more if isinstance(one, types.ImageContent)],
            [one for one in more if isinstance(one, types.ResourceLink)],
            bool(result.is_error),
        )

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    @property
    def data(self) -> Any:
        return self.facts["data"]


@attrs.define
class Agent:
    """An agent that is connected to ``comfy-client mcp``."""

    portal: BlockingPortal
    client: Client
    #: The progress of all calls: share and message.
    progress: list[tuple[float, str]] = attrs.field(factory=list)

    def begin(self, tool: str, **arguments: Any) -> Future[Answered]:
        """Begin a call; cancelling the future cancels it."""
        return self.portal.start_task_soon(self._call, tool, arguments)

    def __call__(self, tool: str, **arguments: Any) -> Answered:
        return self.begin(tool, **arguments).result(90)

    async def _call(self, tool: str, arguments: dict[str, Any]) -> Answered:
        async def note(share: float, total: float | None, message: str | None) -> None:
            self.progress.append((share, message or ""))

        result = await self.client.call_tool(tool, arguments, progress_callback=note)
        return Answered.of(result)

    def tools(self) -> list[types.Tool]:
        return self.portal.call(self.client.list_tools).tools

    def read(self, uri: str) -> types.TextResourceContents | types.BlobResourceContents:
        [content] = self.portal.call(self.client.read_resource, uri).contents
        return content


@contextmanager
def connected_agent(target: Any, mode: str = "auto") -> Iterator[Agent]:
    """An agent that is connected to a server of the library, a command or a transport."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Client(target, mode=mode)) as client,
    ):
        yield Agent(portal, client)


@contextmanager
def agent_on_stdio(command: CommandLine, *args: object, mode: str = "auto") -> Iterator[Agent]:
    """An agent that starts the installed command; when it leaves, it closes the command's stdin."""
    (program, *words), env = command.words_and_variables("mcp", *args, **VARIABLES)
    parameters = StdioServerParameters(command=program, args=words, env=env)
    with (
        (command.home / "mcp.log").open("a") as log,
        connected_agent(stdio_client(parameters, log), mode) as agent,
    ):
        yield agent


@contextmanager
def http_door(command: CommandLine, *args: object) -> Iterator[str]:
    """The URL of the installed command over HTTP, with the token ``TOKEN``."""
    variables = {**VARIABLES, "COMFY_MCP_TOKEN": TOKEN}
    with command.started("mcp", *args, "--http", "0", **variables) as process:
        assert process.stderr is not None
        yield process.stderr.readline().strip()


@contextmanager
def agent_over_http(url: str, mode: str = "auto") -> Iterator[Agent]:
    """An agent that has the token."""
    http = httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60.0, trust_env=False
    )
    with connected_agent(streamable_http_client(url, http_client=http), mode) as agent:
        yield agent
        agent.portal.call(http.aclose)


@contextmanager
def agent_of(
    url: str,
    *folders: Path,
    mode: str = "auto",
    allow_spend: bool = False,
    client: type[ComfyApi] = ComfyApi,
    reserved: Callable[[str], AbstractContextManager[bool]] | None = None,
    **options: Any,
) -> Iterator[Agent]:
    """An agent in the process of the tests; ``options`` are those of ``Door``."""
    with_lock = {} if reserved is None else {"reserved": reserved}
    with closing(client(url, timeout=(5.0, 20.0))) as api:
        how = AgentOptions(MARK, allow_spend=allow_spend, **with_lock)
        door = Door(api, Roots(folders), how, **options)
        with closing(door), connected_agent(door.server, mode) as agent:
            yield agent
