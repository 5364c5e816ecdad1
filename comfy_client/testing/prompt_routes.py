"""Routes for prompts: submit, queue, history, interrupt; and the jobs API of newer servers.

The jobs API has queue and history as one list.  It calls interrupted jobs cancelled, can cancel by
id, and fails on a prompt whose ``extra_pnginfo``, or the ``workflow`` in it, is not an object.

Fields that a script has not written to the history are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import attrs
from aiohttp import web

from ..values import is_uuid
from ..workflow.explain import unknown_class
from ..workflow.validate import ValidationResult, no_prompt
from .prompt_check import CheckedPrompt, check_prompt
from .prompt_run import SECRETS
from .server_state import RouteTable, ServerState

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
    source = request.headers.get("Comfy-Usage-Source") if state.options.since("0.28") else None
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
    checked = _validated(state, body)
    result = checked.result
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
    extra_data["create_time"] = state.options.clock.stamp()
    outputs = result.outputs_to_execute
    state.queue.put((number, prompt_id, result.graph, extra_data, outputs, secrets))
    answer = {"prompt_id": prompt_id, "number": number, "node_errors": result.node_errors}
    if checked.guessed:
        answer["hint"] = hint = (
            f"nobody knows what {', '.join(checked.guessed)} would do: this embedded server "
            "accepts any node class (nodes='any'), and makes up its inputs and outputs"
        )
        state.log(f"WARNING: {hint}")
    return web.json_response(answer)


def _prompt_id(state: ServerState, body: Mapping[str, Any]) -> str | None:
    """Return the id for a prompt, or None if the server refuses the requested one."""
    prompt_id = body["prompt_id"] if "prompt_id" in body else str(state.options.ids.new())
    if state.options.since("0.28"):
        prompt_id = str(state.options.ids.new()) if prompt_id is None else prompt_id
        if "prompt" in body and not is_uuid(prompt_id):
            return None
    return str(prompt_id)  # older servers accept any value


def _validated(state: ServerState, body: Mapping[str, Any]) -> CheckedPrompt:
    """Validate a prompt; accept an invalid one, too, if a script will replace it."""
    if "prompt" not in body:
        return CheckedPrompt(no_prompt())
    prompt, targets = body["prompt"], body.get("partial_execution_targets")
    checked = check_prompt(state.nodes, prompt, targets, state.options.rules)
    if state.faults.first("script") and isinstance(prompt, dict):
        result = checked.result
        graph = result.graph if result.ok else prompt
        return CheckedPrompt(ValidationResult(True, None, {}, result.outputs_to_execute, graph))
    return checked


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


PROMPT_ROUTES: RouteTable[ServerState] = (
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


_STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_SORT_KEYS = ("created_at", "execution_duration")
_ENDS = ("execution_success", "execution_error", "execution_interrupted")
_TEXTS = (".txt", ".md", ".json")
#: Kinds of outputs, and extensions of other files, that the frontend can show.
_SHOWABLE = ("images", "video", "audio", "3d", "text")
_MODELS_3D = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
_EXCERPT = 1024  # characters of a text that represents a job


async def _get_jobs(state: ServerState, request: web.Request) -> web.Response:
    try:
        return web.json_response(_page(_jobs(state), request.query))
    except ValueError as exc:
        return web.json_response({"error": str(exc)}, status=400)


async def _get_job(state: ServerState, request: web.Request) -> web.Response:
    for job in reversed(_jobs(state)):  # if two have this id, prefer the ended one
        if job.id == request.match_info["id"]:
            return web.json_response({**job.listed(), **job.details()})
    return web.json_response({"error": "Job not found"}, status=404)


def cancel_job(state: ServerState, job_id: str) -> bool:
    """Remove a pending prompt or interrupt the running one; return whether there was one."""
    if state.queue.delete(job_id):
        return True
    runs = state.queue.running_id == job_id
    if runs:
        state.interrupt()
    return runs


async def _cancel_jobs(state: ServerState, request: web.Request) -> web.Response:
    try:
        body = await request.json()
    except json.JSONDecodeError:
        return web.json_response({"error": "Request body must be valid JSON"}, status=400)
    ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(ids, list):
        return web.json_response({"error": "job_ids must be a list"}, status=400)
    wrong = [one if isinstance(one, str) else repr(one) for one in ids if not is_uuid(one)]
    if wrong:
        answer = {"error": "job_ids contains invalid id(s)", "invalid_ids": wrong}
        return web.json_response(answer, status=400)
    cancelled = [cancel_job(state, job_id) for job_id in ids]  # all of them
    return web.json_response({"cancelled": any(cancelled)})


async def _cancel_job(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response({"cancelled": cancel_job(state, request.match_info["id"])})


#: These routes exist with /api only.
JOB_ROUTES: RouteTable[ServerState] = (
    ("GET", "/api/jobs", _get_jobs),
    ("GET", "/api/jobs/{id}", _get_job),
    ("POST", "/api/jobs/cancel", _cancel_jobs),
    ("POST", "/api/jobs/{id}/cancel", _cancel_job),
)


def _page(found: list[_Job], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the page of jobs for a query; raise ValueError with the server's text if invalid."""
    status = query.get("status", "")
    wanted = [word.strip().lower() for word in status.split(",") if word.strip()]
    wrong = [word for word in wanted if word not in _STATUSES]
    if wrong:
        raise ValueError(
            f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(_STATUSES)}"
        )
    sort_by = query.get("sort_by", "created_at").lower()
    order = query.get("sort_order", "desc").lower()
    if sort_by not in _SORT_KEYS:
        raise ValueError("sort_by must be 'created_at' or 'execution_duration'")
    if order not in ("asc", "desc"):
        raise ValueError("sort_order must be 'asc' or 'desc'")
    limit, offset = _number(query, "limit"), max(0, _number(query, "offset") or 0)
    if limit is not None and limit < 1:
        raise ValueError("limit must be a positive integer")
    jobs = [job.listed() for job in found if not status or job.status in wanted]
    if query.get("workflow_id"):
        jobs = [job for job in jobs if job.get("workflow_id") == query["workflow_id"]]
    key = _created if sort_by == "created_at" else _duration
    jobs.sort(key=key, reverse=order == "desc")
    page = jobs[offset : None if limit is None else offset + limit]
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": len(jobs),
        "has_more": offset + len(page) < len(jobs),
    }
    return {"jobs": page, "pagination": pagination}


def _number(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    try:
        return int(query[name])
    except ValueError:
        raise ValueError(f"{name} must be an integer") from None


def _created(job: Mapping[str, Any]) -> Any:
    return job.get("create_time", 0)


def _duration(job: Mapping[str, Any]) -> Any:
    start, end = job.get("execution_start_time"), job.get("execution_end_time")
    return end - start if start and end else 0


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@attrs.frozen
class _Job:
    """A prompt from the queue or the history, as the jobs API describes it."""

    status: str
    _item: Any
    _is_newest: bool  # 0.33: it counts the outputs that can be shown, and prefers pictures to texts
    _entry: Mapping[str, Any] | None = None  # set if the prompt has ended

    @property
    def id(self) -> str:
        return str(self._item[1])

    def listed(self) -> dict[str, Any]:
        """Return the job's entry in the list of jobs."""
        number, prompt_id, _, extra_data, _ = self._item
        entry = self._entry or {}
        messages = (entry.get("status") or {}).get("messages") or ()
        events = {name: data or {} for name, data in messages}
        end = next((events[name] for name in reversed(events) if name in _ENDS), {})
        return {
            "id": prompt_id,
            "status": self.status,
            **_present(
                priority=number,
                create_time=extra_data.get("create_time"),
                execution_start_time=events.get("execution_start", {}).get("timestamp"),
                execution_end_time=end.get("timestamp"),
                execution_error=events.get("execution_error"),
            ),
            **_summary(entry.get("outputs") or {}, self._is_newest),
            **_present(workflow_id=self._workflow_id()),
        }

    def _workflow_id(self) -> Any:
        found = self._item[3]
        for key in ("extra_pnginfo", "workflow", "id"):
            found = found.get(key, {})  # ComfyUI does not check the type, either
        return found or None

    def details(self) -> dict[str, Any]:
        """Return the further fields of a job that has ended, or an empty dict for any other."""
        entry = self._entry
        if entry is None:
            return {}
        outputs = _as_files(entry["outputs"]) if entry.get("outputs") else entry.get("outputs")
        return {
            **_present(outputs=outputs, execution_status=entry.get("status")),
            "workflow": {"prompt": self._item[2], "extra_data": self._item[3]},
        }


def _jobs(state: ServerState) -> list[_Job]:
    newest, queue = state.options.since("0.33"), state.queue
    shown = queue.shown()
    jobs = [
        _Job(status, item, newest)
        for key, status in (("queue_running", "in_progress"), ("queue_pending", "pending"))
        for item in shown[key]
    ]
    ended = [entry for entry in queue.history().values() if len(entry["prompt"]) >= 5]
    return jobs + [_Job(_status(one), one["prompt"], newest, one) for one in ended]


def _status(entry: Mapping[str, Any]) -> str:
    status = entry.get("status") or {}
    if status.get("status_str") != "error":
        return "completed"
    events = [name for name, _ in status.get("messages") or ()]
    return "cancelled" if "execution_interrupted" in events else "failed"


def _summary(outputs: Mapping[str, Any], newest: bool) -> dict[str, Any]:
    """Return the numbers of a job's output files, and a file or text to represent it, if any."""
    count = shown = 0
    ranked: list[tuple[int, dict[str, Any]]] = []
    for node_id, kind, one in _each(outputs):
        file = _as_file(one)
        if isinstance(file, dict):
            count += 1
            if _is_shown(kind, file):
                shown += 1
                found = {"mediaType": kind, **file, "nodeId": node_id}
                ranked.append((_rank(kind, file, newest), found))
        elif kind == "text":
            text = {**_excerpt(str(one)), "nodeId": node_id, "mediaType": kind}
            ranked.append((3 if newest else 1, text))
    return _present(
        outputs_count=count,
        previewable_outputs_count=shown if newest else None,
        preview_output=min(ranked, key=itemgetter(0))[1] if ranked else None,
    )


def _each(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the node id, kind and value of each item in a prompt's outputs."""
    for node_id, output in outputs.items():
        for kind, ones in output.items() if isinstance(output, dict) else ():
            if kind != "animated" and isinstance(ones, list):
                yield from ((node_id, kind, one) for one in ones)


def _as_file(one: Any) -> Any:
    """Return the file that a bare name of a 3D model is, or the item of an output itself."""
    if isinstance(one, str) and one.lower().endswith(_MODELS_3D):
        return {"filename": one, "type": "output", "subfolder": "", "mediaType": "3d"}
    return one


def _as_files(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a prompt with files in place of the bare names of 3D models."""
    found = {**outputs}
    for node_id, output in outputs.items():
        if isinstance(output, dict):
            found[node_id] = {**output}
            for kind, ones in output.items():
                if kind != "animated" and isinstance(ones, list):
                    found[node_id][kind] = [_as_file(one) for one in ones if one is not None]
    return found


def _is_shown(kind: str, file: Mapping[str, Any]) -> bool:
    """Return whether the frontend can show an output file."""
    name, form = str(file.get("filename", "")).lower(), str(file.get("format", ""))
    shown = kind in _SHOWABLE or name.endswith((*_MODELS_3D, *_TEXTS))
    return shown or form.startswith(("video/", "audio/"))


def _rank(kind: str, file: Mapping[str, Any], newest: bool) -> int:
    """Return the rank of a file that may represent a job; 0 is best (saved files)."""
    name = str(file.get("filename", "")).lower()
    if newest and (kind == "text" or name.endswith(_TEXTS)):
        return 2
    return 0 if file.get("type") == "output" else 1


def _excerpt(text: str) -> dict[str, Any]:
    cut = {"truncated": True} if len(text) > _EXCERPT else {}
    return {"content": text[:_EXCERPT], **cut}
