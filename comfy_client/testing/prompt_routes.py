"""Routes for prompts: submit, queue, history, interrupt."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from ..values import is_uuid
from ..workflow.explain import unknown_class
from ..workflow.validate import ValidationResult, no_prompt, validate
from .prompt_run import SECRETS
from .server_state import Routes, ServerState

_INVALID_ID = {
    "error": {
        "type": "invalid_prompt_id",
        "message": "prompt_id must be a valid UUID",
        "details": (
            "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
            "omit it to let the server generate one"
        ),
        "extra_info": {},
    },
    "node_errors": {},
}


async def _get_prompt(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(state.queue_info())


async def _post_prompt(state: ServerState, request: web.Request) -> web.Response:
    state.log("got prompt")
    source = request.headers.get("Comfy-Usage-Source") if state.options.is_newest else None
    return submit_prompt(state, await request.json(), source)


def submit_prompt(state: ServerState, read: Any, source: str | None = None) -> web.Response:
    """Queue the prompt of a decoded body, or refuse it; return the server's answer.

    Raises:
        RuntimeError: The body makes a real server fail.
    """
    number: float = float(read["number"]) if "number" in read else next(state.numbers)
    body = _object(read, "front", "prompt")
    if "number" not in body and body.get("front"):
        number = -number
    prompt_id = _prompt_id(state, body)
    if prompt_id is None:
        return web.json_response(_INVALID_ID, status=400)
    result = _validated(state, body)
    if result.crash is not None:
        raise RuntimeError(result.crash)
    extra_data = body.get("extra_data", {})
    if "client_id" in body and "prompt" in body:
        extra_data["client_id"] = body["client_id"]
    if source:
        extra_data.setdefault("comfy_usage_source", source)
    if not result.ok:
        return _refused(state, body, result)
    secrets = {name: extra_data.pop(name) for name in SECRETS if name in extra_data}
    extra_data["create_time"] = int(time.time() * 1000)
    outputs = result.outputs_to_execute
    state.queue.put((number, prompt_id, result.graph, extra_data, outputs, secrets))
    return web.json_response(
        {"prompt_id": prompt_id, "number": number, "node_errors": result.node_errors}
    )


def _prompt_id(state: ServerState, body: Mapping[str, Any]) -> str | None:
    """Return the id for a prompt, or None if the server refuses the requested one."""
    prompt_id = body.get("prompt_id", str(uuid.uuid4()))
    if state.options.is_newest:
        prompt_id = str(uuid.uuid4()) if prompt_id is None else prompt_id
        if "prompt" in body and not is_uuid(prompt_id):
            return None
    return str(prompt_id)  # older servers accept any value


def _validated(state: ServerState, body: Mapping[str, Any]) -> ValidationResult:
    """Validate a prompt; accept an invalid one, too, if a script will replace it."""
    if "prompt" not in body:
        return no_prompt()
    result = validate(
        body["prompt"],
        state.nodes.definitions(body["prompt"] or {}),
        targets=body.get("partial_execution_targets"),
        extra_checks=state.nodes.checks(),
        version=state.options.version,
    )
    if state.faults.first("script") and isinstance(body["prompt"], dict):
        graph = result.graph if result.ok else body["prompt"]
        return ValidationResult(True, None, {}, result.outputs_to_execute, graph)
    return result


def _refused(state: ServerState, body: Mapping[str, Any], result: ValidationResult) -> web.Response:
    state.log(f"invalid prompt: {result.error}")
    answer = {"error": result.error, "node_errors": result.node_errors}
    if isinstance(result.error, dict) and unknown_class(answer, body.get("prompt", {})):
        result.error["extra_info"]["hint"] = state.nodes.hint()
    return web.json_response(answer, status=400)


async def _get_queue(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(state.queue.shown())


async def _removed(
    request: web.Request, clear: Callable[[], object], delete: Callable[[Any], object]
) -> web.Response:
    body = _object(await request.json(), "clear", "delete")
    if body.get("clear"):
        clear()
    for prompt_id in body.get("delete", ()):
        delete(prompt_id)
    return web.Response()


async def _post_queue(state: ServerState, request: web.Request) -> web.Response:
    return await _removed(request, state.queue.clear, state.queue.delete)


async def _post_interrupt(state: ServerState, request: web.Request) -> web.Response:
    try:
        body = await request.json()
    except json.JSONDecodeError:
        body = {}
    prompt_id = body.get("prompt_id")
    if not prompt_id or prompt_id == state.queue.running_id:
        state.log(f"Interrupting {prompt_id or 'whatever runs'}")
        state.interrupt()
    return web.Response()


async def _post_free(state: ServerState, request: web.Request) -> web.Response:
    body = await request.json()
    for name in ("unload_models", "free_memory"):
        if body.get(name, False):
            state.queue.flag(name, body[name])
    return web.Response()


async def _get_history(state: ServerState, request: web.Request) -> web.Response:
    limit, offset = request.query.get("max_items"), request.query.get("offset")
    found = state.queue.history(
        None if limit is None else int(limit), -1 if offset is None else int(offset)
    )
    return web.json_response(found)


async def _get_history_of(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(state.queue.entry(request.match_info["prompt_id"]))


async def _post_history(state: ServerState, request: web.Request) -> web.Response:
    return await _removed(request, state.queue.forget, state.queue.forget)


def _object(body: Any, *keys: str) -> dict[str, Any]:
    """Return a request's JSON object, or an empty one for text or a list without these keys.

    Raise TypeError for any other body, as a real server does.
    """
    if isinstance(body, dict):
        return body
    if any(key in body for key in keys):
        raise TypeError("the body is not an object")
    return {}


PROMPT_ROUTES: Routes[ServerState] = (
    ("GET", "/prompt", _get_prompt),
    ("POST", "/prompt", _post_prompt),
    ("GET", "/queue", _get_queue),
    ("POST", "/queue", _post_queue),
    ("POST", "/interrupt", _post_interrupt),
    ("POST", "/free", _post_free),
    ("GET", "/history", _get_history),
    ("GET", "/history/{prompt_id}", _get_history_of),
    ("POST", "/history", _post_history),
)
