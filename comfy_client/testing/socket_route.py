"""The route of the event socket."""

from __future__ import annotations

import json
import uuid
from typing import Any

import aiohttp
from aiohttp import web

from .http import more_headers
from .state import ServerState
from .websocket import EventSocket, encode_message


async def event_socket(state: ServerState, request: web.Request) -> web.StreamResponse:
    """``GET /ws``: from the handshake to the end of the socket."""
    sockets, records = state.sockets, state.records
    ws = web.WebSocketResponse(autoping=False)
    ws.headers.update(more_headers.get())
    await ws.prepare(request)
    client_id = request.query.get("clientId") or uuid.uuid4().hex
    link = EventSocket(client_id, ws, request.transport)
    async with sockets.connected(link):
        greeting = {"status": state.queue_info(), "sid": client_id}
        records.keep(records.hellos, client_id)
        await link.send(encode_message("status", greeting), *state.faults.framing())
        sockets.greeted(client_id)
        executor = state.executor
        if executor.client_id == client_id and executor.node_id is not None:
            await sockets.deliver("executing", {"node": executor.node_id}, client_id)
        is_first = True
        async for message in ws:
            if message.type is aiohttp.WSMsgType.PING:
                await _answer_ping(state, link, message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                received = _decoded(state, message.data, is_first)
                if is_first and received is not None:
                    is_first = False
                    await _first_message(state, client_id, received)
    return ws


async def _answer_ping(state: ServerState, link: EventSocket, data: bytes) -> None:
    state.records.count("pings")
    swallowing = state.faults.find("swallow_pings")
    for fault in swallowing:
        fault.hits += 1
    if not swallowing:
        await link.pong(data)


def _decoded(state: ServerState, text: str, is_first: bool) -> dict[str, Any] | None:
    """A client's message, if it is an object; recorded either way."""
    records = state.records
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if is_first:
        records.keep(records.first_messages, data)
    records.keep(records.messages, data)
    return data if isinstance(data, dict) else None


async def _first_message(state: ServerState, client_id: str, data: dict[str, Any]) -> None:
    if data.get("type") == "feature_flags" and not state.faults.first("no_feature_flags"):
        state.sockets.set_flags(client_id, data.get("data", {}))
        await state.sockets.deliver("feature_flags", state.features, client_id)
