"""Uploading the files of a workflow, submitting it as a prompt, and pinging the server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import attrs

from .. import models, runtime
from ..errors import (
    ApiError,
    ComfyError,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
    WorkflowError,
)
from ..log_records import Tag, checked_tags
from ..redaction import sealed
from ..transport.deadline import Deadline
from ..transport.http import SMALL, Http
from ..workflow import Workflow, check_graph, check_parts
from ..workflow.edit import AnyWorkflow, graph_of
from ..workflow.graph import brief, describe, files_in, json_value
from ..workflow.seeds import draw_wanted
from .definitions import NodeDefinitions
from .files import FileRoutes

if TYPE_CHECKING:
    from ..upload import Upload

#: The key for this client's own prompt id in ``extra_data``, for servers that choose another id.
EXTRA_DATA_KEY = "comfy_client_prompt_id"

#: Arguments of ``run``, for hints in errors about unknown names.
_OF_RUN = (
    *("timeout", "stall_timeout", "on_interrupt", "strict", "resubmit", "check", "retry_oom"),
    *("on_event", "on_progress", "on_preview", "on_start", "on_output", "on_queue", "every"),
    "progress",
)
#: Further arguments of ``queue_prompt``, for the same hints.
_OF_QUEUE = ("prompt_id", "number")


class PromptOptions(TypedDict, total=False):
    """Options of :meth:`ComfyApi.run`, ``submit``, ``map``, ``sweep`` and ``queue_prompt``.

    Leaving an option out is the same as ``None``.

    Attributes:
        front: True puts the prompt at the front of the queue; ``None`` leaves its place to
            ``number``.
        extra_data: Stored with the prompt in queue and history, where everyone can read it.  Like
            the workflow, it may hold numpy numbers; what JSON cannot represent is a ``TypeError``
            that names the place.
        workflow_ui: The workflow in UI format, which the server embeds in the images.
        partial_execution_targets: Ids of output nodes; only these run.  ``None``: all.  Since
            ComfyUI 0.3.48.
        preview_method: ``auto``, ``latent2rgb``, ``taesd`` or ``none``.  ``None``: ``auto`` if
            ``b_preview`` has receivers.  Since ComfyUI 0.5; older servers ignore it.
        comfy_api_key: The key for partner nodes.  Servers before 0.3.68 show it to everyone in
            ``/queue``.
        tags: Names and values of your own, such as a correlation id or a tenant.  Each log record
            about the prompt has them as its attribute ``tags``, as they are, so put no secrets
            in; :attr:`Job.tags` returns them.  They are not sent to the server, and
            ``queue_prompt``, which follows no prompt, only checks them.  Up to 16 names of 64
            characters, and values that are ``str`` of up to 512 characters, finite ``float``,
            ``bool`` or ``int`` of up to 64 bits.
    """

    front: bool | None
    extra_data: Mapping[str, Any] | None
    workflow_ui: Mapping[str, Any] | None
    partial_execution_targets: Sequence[str] | None
    preview_method: str | None
    comfy_api_key: str | None
    tags: Mapping[str, Tag] | None


class SubmitOptions(PromptOptions, total=False):
    """Options of :meth:`ComfyApi.submit` and :meth:`ComfyApi.map`.

    Attributes:
        strict: See :meth:`ComfyApi.submit`.
        resubmit: See :meth:`ComfyApi.submit`.
    """

    strict: bool
    resubmit: bool


def seal(
    options: Any, method: Callable[..., object], kind: type[PromptOptions] = PromptOptions
) -> None:
    """Seal the secrets in options, so that no frame of a traceback shows them; check the tags.

    Raises ``TypeError`` for an option that is not in ``kind``: Python accepts any name in
    ``**options``.
    """
    for name in ("comfy_api_key", "extra_data"):
        if options.get(name):
            options[name] = sealed(options[name], is_secret=name == "comfy_api_key")
    if options.get("tags") is not None:
        options["tags"] = checked_tags(options["tags"])
    for name in options.keys() - kind.__annotations__.keys():
        raise _unexpected(name, method, kind)


@attrs.frozen(eq=False, repr=False)
class PreparedPrompt:
    """A prompt to submit."""

    body: Mapping[str, Any]  #: The body of ``POST /prompt``.
    graph: Mapping[str, Any]  #: The whole workflow.
    left_out: Mapping[str, Any]  #: ``node_errors`` of the parts that are not in the body.


class PromptRoutes:
    """The status of the server, from ``/prompt``."""

    _http: Http

    def poll_status(self, timeout: float = 1.0) -> models.QueueStatus:
        """Return the number of running and pending prompts of all clients.  ``GET /prompt``.

        After ``timeout`` seconds, raises :class:`RequestTimeout`.
        """
        data = self._http.json("GET", "/prompt", timeout=timeout, max_bytes=SMALL)
        try:
            return models.QueueStatus.from_json(data)
        except UnexpectedResponse as exc:
            raise UnexpectedResponse(
                f"{self._http.address.http_url}: answers, but it is not ComfyUI ({exc})",
                method="GET",
                path="/prompt",
                status=200,
                body=self._http.identity.hide(data),
            ) from None

    def ping(self, timeout: float = 5.0) -> models.PingResult:
        """Check whether the server answers; return the time that it took, or why it failed.

        ``GET /prompt``.  A failure is in the result: ``if api.ping(): ...`` works.
        """
        start = runtime.monotonic()
        try:
            self.poll_status(timeout)
        except ComfyError as exc:
            return models.PingResult(ok=False, elapsed=runtime.monotonic() - start, error=exc)
        return models.PingResult(ok=True, elapsed=runtime.monotonic() - start, error=None)


def make_prompt(
    http: Http,
    workflow: AnyWorkflow,
    *,
    client_id: str,
    number: float | None = None,
    prompt_id: str | None = None,
    wants_previews: bool = False,
    strict: bool = False,
    **options: Unpack[PromptOptions],
) -> PreparedPrompt:
    """Build a prompt from a workflow, and register the secrets in its body with ``http``."""
    graph, part, left_out = _checked(workflow, strict)
    draw_wanted(graph)  # changes a copy, which shares its nodes with the part
    # Without a client_id, a cached prompt has no outputs in the history (0.3.75).
    body: dict[str, Any] = {"prompt": _with_meta(part), "client_id": client_id}
    extra = _extra_data(options.get("extra_data"), options.get("workflow_ui"))
    preview_method = options.get("preview_method")
    if preview_method is not None:
        extra["preview_method"] = preview_method
    elif wants_previews:
        extra.setdefault("preview_method", "auto")
    key = options.get("comfy_api_key")
    if key is not None:
        extra["api_key_comfy_org"] = key
    if key is not None or options.get("extra_data"):  # a failing node may repeat it
        http.identity.entrust({n: v for n, v in extra.items() if n != "extra_pnginfo"})
    if prompt_id is not None:  # null would become the id "None"
        body["prompt_id"] = prompt_id
        extra[EXTRA_DATA_KEY] = prompt_id
    if extra:
        body["extra_data"] = extra
    targets = options.get("partial_execution_targets")
    if isinstance(targets, str):
        raise TypeError("partial_execution_targets must be a list of node ids")
    if targets is not None:
        body["partial_execution_targets"] = _targets(targets, graph)
    front = options.get("front")
    if front or (front is None and number == -1):
        body["front"] = True
    elif number and number != -1:
        body["number"] = number
    return PreparedPrompt(body, graph, left_out)


def _checked(
    workflow: AnyWorkflow, strict: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what :func:`check_parts` does; with ``strict``, raise if any part cannot be sent."""
    try:
        if strict:
            check_graph(graph_of(workflow))
        return check_parts(graph_of(workflow))
    except WorkflowError as exc:
        raise exc.with_traceback(None) from None  # its frames hold the keys of the workflow


def check_before_upload(
    http: Http, workflow: Workflow, *, strict: bool = False, **options: Unpack[PromptOptions]
) -> None:
    """Check a workflow with files and its options, so that a mistake costs no upload.

    What is wrong with a submission is noticed in this order, and nothing later is sent:

    1. the options: their names and tags (:func:`seal`), and that the client is open;
    2. a ``prompt_id`` of the caller's own;
    3. the workflow, as it is read, and its inputs;
    4. with ``check``, the nodes, by the server's definitions;
    5. what :func:`make_prompt` refuses: graph, ``extra_data``, ``workflow_ui`` and targets;
    6. the files, as they are uploaded;
    7. the prompt with the names of the files, again by :func:`make_prompt`;
    8. that no prompt with this id is outstanding (:meth:`Tracker.add`);
    9. what the server refuses of ``POST /prompt``.

    Step 5 is this function.  Without files, it is the same as step 7.
    """
    trial = workflow.copy()
    trial.set(dict.fromkeys(files_in(graph_of(workflow)), ""), force=True)
    make_prompt(http, trial, client_id="", strict=strict, **options)


def with_files_sent(files: FileRoutes, workflow: Workflow, deadline: Deadline) -> Workflow:
    """Upload a workflow's files; return a copy that names them, or the workflow if it has none.

    Raises:
        ComfyError: As :meth:`FileRoutes.upload_image`.
    """
    graph = graph_of(workflow)
    pending = files_in(graph)
    if not pending:
        return workflow
    names: dict[Upload, Any] = {}  # of an asset, it is a mapping
    for (node_id, name), upload in pending.items():
        if upload not in names:
            try:
                left = None if math.isinf(deadline.at) else deadline.left()
                names[upload] = files.upload_image(upload, timeout=left).ref
            except Exception as exc:
                exc.add_note(f"for {describe(graph, node_id)}, input {brief(name)}")
                raise
    ready = workflow.copy()
    ready.set({place: names[upload] for place, upload in pending.items()}, force=True)
    return ready


def _unexpected(name: str, method: Callable[..., object], kind: type[PromptOptions]) -> TypeError:
    """Return the error for an option that a method does not have."""
    from inspect import signature  # for mistakes only

    from ..nearest import nearest

    known = (*signature(method).parameters, *kind.__annotations__)
    likely = nearest(name, (*known, *_OF_RUN), 1)
    hint = f"; nearest: {likely[0]!r}" if likely else ""
    if name in _OF_RUN:
        hint = "; it is one of run()" + (" or job.result()" if name == "timeout" else "")
    elif name in _OF_QUEUE:
        hint = "; it is one of ComfyApi.queue_prompt()"
    return TypeError(f"{method.__name__}() got an unexpected keyword argument {name!r}{hint}")


def post_prompt(
    http: Http,
    body: Mapping[str, Any],
    definitions: NodeDefinitions,
    timeout: float | None = None,
) -> models.QueuedPrompt:
    """Send ``POST /prompt``; if the server refuses the prompt, raise an error that says why."""
    answer, begun = None, runtime.monotonic()
    try:
        answer = http.json("POST", "/prompt", json=body, timeout=timeout, max_bytes=SMALL)
        queued = models.QueuedPrompt.from_json(answer)
    except ApiError as exc:
        from .refusals import rejected, unknown_classes  # rarely needed, and slow to import

        deadline = Deadline(begun + (http.total_timeout if timeout is None else timeout))
        if exc.status == 400:
            raise rejected(http, exc, body, definitions, deadline) from None
        if exc.status == 500:
            error = unknown_classes(http, exc, body["prompt"], definitions, deadline)
            if error is not None:
                raise error from None
        raise
    except TransportError as exc:
        if not isinstance(exc, ServerUnreachable):
            exc.retryable = False  # the prompt may be in the queue
        raise
    except UnexpectedResponse:
        if isinstance(answer, Mapping) and "exec_info" in answer:
            raise UnexpectedResponse(
                "POST /prompt was answered like a GET: a redirect or proxy on the way changed "
                "the method; give the final URL as host",
                method="POST",
                path="/prompt",
                status=200,
                body=http.identity.hide(answer),
            ) from None
        raise
    return _checked_answer(http, queued, answer, body.get("prompt_id"))


def _checked_answer(
    http: Http, queued: models.QueuedPrompt, answer: object, ours: object
) -> models.QueuedPrompt:
    """Check the id of a queued prompt; return the prompt, with secrets in its errors redacted.

    ``ours`` is the id that the client chose.
    """
    # Dots would lead out of /history, and no real id has control characters.
    known = queued.prompt_id
    is_sound = isinstance(known, str) and known not in ("", ".", "..") and known.isprintable()
    if not is_sound or (known != ours and http.identity.gives_away(known)):
        shown = http.identity.hide(answer)
        raise UnexpectedResponse(
            f"POST /prompt: an answer without a prompt_id: {brief(shown)}",
            method="POST",
            path="/prompt",
            status=200,
            body=shown,
        )
    if not queued.node_errors:
        return queued
    hidden = http.identity.secrets().hide_words_in(queued.node_errors)
    return attrs.evolve(queued, node_errors=hidden)


def _with_meta(graph: dict[str, Any]) -> dict[str, Any]:
    """Return the graph, with an empty ``_meta`` added to each node that has none.

    Servers since 0.14 fail (500) on a node without ``_meta`` if its class was replaced, and on a
    null ``_meta`` if its class is unknown.
    """
    bare = {
        node_id: {**node, "_meta": {}}
        for node_id, node in graph.items()
        if isinstance(node, (dict, Mapping)) and not isinstance(node.get("_meta"), (dict, Mapping))
    }
    return {**graph, **bare} if bare else graph


def _extra_data(given: object, workflow_ui: object) -> dict[str, Any]:
    """Return a copy of ``extra_data`` with the UI workflow, in a form that every server accepts."""
    if given is None and workflow_ui is None:
        return {}
    extra = dict(_object(given, "extra_data"))
    # Unless both are objects, GET /api/jobs fails for everybody while the server has the prompt.
    info = dict(_object(extra.pop("extra_pnginfo", None), "extra_data['extra_pnginfo']"))
    if workflow_ui is None:
        ui_graph = _object(info.pop("workflow", None), "extra_data['extra_pnginfo']['workflow']")
    else:
        ui_graph = _object(workflow_ui, "workflow_ui")
    if ui_graph:
        info["workflow"] = ui_graph
    if info:
        extra["extra_pnginfo"] = info
    if not extra:
        return extra
    try:
        json.dumps(extra, allow_nan=False)  # quick, and enough for most values
    except (TypeError, ValueError, RecursionError):
        try:
            return dict(json_value(extra))
        except (ValueError, RecursionError) as exc:
            where, value = _fault("extra_data", extra)
            kind = ValueError if isinstance(value, float) else TypeError
            raise kind(
                f"{where}: {exc if isinstance(exc, ValueError) else 'nested too deeply'}"
            ) from None
    return extra


def _object(value: object, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a mapping, not {brief(value)}")
    return value


def _fault(where: str, value: Any) -> tuple[str, Any]:
    """Find the innermost value that JSON cannot represent; return its place, and the value."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    for key, item in inner:
        try:
            json_value(item)
        except ValueError:
            return _fault(f"{where}[{key!r}]", item)
        except RecursionError:
            return f"{where}[{key!r}]", item
    return where, value


def _targets(targets: Sequence[str], graph: Mapping[str, Any]) -> list[str]:
    found = list(map(str, targets))
    for node_id in found:
        if node_id not in graph:
            from ..nearest import nearest  # only for errors

            raise WorkflowError(
                f"partial_execution_targets: the workflow has no node with the id {node_id!r}",
                candidates=tuple(nearest(node_id, list(graph), 3)),
            )
    return found
