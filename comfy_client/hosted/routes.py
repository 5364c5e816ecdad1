"""Routes of Comfy API v2: jobs, their events, and assets."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..errors import ApiError, ComfyError, PromptRejected, ServerUnreachable, UnexpectedResponse
from ..transport.http import SMALL, Http, segment
from ..transport.response import Download
from ..values import is_shallow, mapping, size_decoded, table_at, text
from .models import Asset, HostedJob, HostedJobs, ServerEvent
from .sse import MAX_FRAME, FrameReader

if TYPE_CHECKING:
    from ..transport.multipart import OnProgress
    from ..upload import Content, OpenContent

#: The label of a job, in the form that its server accepts.
Label = str | Mapping[str, str]

#: The most memory of the data of an event, as a multiple of the largest frame.
_GROWTH: Final = 4


@attrs.frozen(eq=False, repr=False)
class HostedRoutes:
    """The routes of one server below ``/api/v2``, over an ``Http`` with the dialect :data:`HOSTED`.

    Timeouts are in seconds; ``None``: the client's own.  All methods raise the errors of requests:
    ``NotFound``, ``Throttled``, ``AuthenticationError``, ``PaymentRequired``, ``ApiError`` with its
    ``reason``, ``UnexpectedResponse``, ``TransportError``.
    """

    http: Http

    def __repr__(self) -> str:
        return f"<HostedRoutes {self.http.address.http_url}>"

    # -- jobs ----------------------------------------------------------------------------

    def submit(
        self,
        workflow: Mapping[str, Any],
        *,
        key: str,
        label: Label | None = None,
        extra_data: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> HostedJob:
        """Submit a workflow once, and return the job.  ``POST /api/v2/jobs``.

        An error is not ``retryable`` if the server may have acted; a repetition with the same key
        is safe on a server that remembers keys.

        Args:
            workflow: The graph in API format.
            key: The ``Idempotency-Key``, of up to 255 characters.
            label: The ``metadata`` of the job, in the form that the server accepts.
            extra_data: It may have the key ``api_key_comfy_org``, and no other.
            timeout: Seconds.

        Raises:
            PromptRejected: The server refuses the workflow, or an asset in it is unknown.
            ApiError: ``reason`` is ``idempotency_key_reuse`` if the key was used before,
                ``metadata_not_supported`` or ``metadata_invalid`` if the server does not accept
                the label.
        """
        body: dict[str, Any] = {"workflow": workflow}
        if label is not None:
            body["metadata"] = label
        if extra_data:
            body["extra_data"] = extra_data
            self.http.identity.entrust(dict(extra_data))
        try:
            answer = self.http.json(
                "POST",
                "/api/v2/jobs",
                json=body,
                headers={"Idempotency-Key": key},
                timeout=timeout,
            )
            return HostedJob.from_json(answer)
        except ApiError as exc:
            raise (rejection(self.http, exc, workflow) or exc) from None
        except ComfyError as exc:
            if not isinstance(exc, ServerUnreachable):
                exc.retryable = False  # the job may be in the queue
            raise

    def job(self, job_id: str, *, timeout: float | None = None) -> HostedJob:
        """Return a job.  ``GET /api/v2/jobs/{id}``; raises NotFound if the id is unknown."""
        answer = self.http.json("GET", f"/api/v2/jobs/{segment(job_id)}", timeout=timeout)
        return HostedJob.from_json(answer)

    def jobs(
        self,
        *,
        label: Mapping[str, str] | None = None,
        status: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> HostedJobs:
        """Return jobs, the newest first.  ``GET /api/v2/jobs``.

        Args:
            label: Only jobs with these labels; up to 3, and on serverless deployments only.
            status: Only jobs of these statuses, separated by commas; on the proxy only.
            limit: The most jobs to return, from 1 to 100.
            cursor: The ``next_cursor`` of the page before; on serverless deployments only.
            timeout: Seconds.

        Raises:
            NotSupported: The server keeps no list (Comfy Cloud, a public deployment).
        """
        params = {"limit": limit, "status": status, "cursor": cursor}
        params |= {f"metadata[{name}]": value for name, value in (label or {}).items()}
        answer = self.http.json("GET", "/api/v2/jobs", params=params, timeout=timeout)
        return HostedJobs.from_json(answer)

    def workflow(self, job_id: str, *, timeout: float | None = None) -> Mapping[str, Any]:
        """Return the graph of a job.  ``GET /api/v2/jobs/{id}/workflow``.

        Raises :class:`NotFound` if the server does not have the graph, or no longer has it.
        """
        route = f"/api/v2/jobs/{segment(job_id)}/workflow"
        answer = mapping(self.http.json("GET", route, timeout=timeout), "GET workflow")
        return mapping(answer.get("workflow"), "GET workflow: workflow")

    def cancel(self, job_id: str, *, timeout: float | None = None) -> HostedJob:
        """Request the end of a job, and return the job.  ``POST /api/v2/jobs/{id}/cancel``.

        The answer does not show whether the job will end: request the job again.
        """
        route = f"/api/v2/jobs/{segment(job_id)}/cancel"
        return HostedJob.from_json(self.http.json("POST", route, timeout=timeout))

    def events(
        self, job_id: str, *, idle: float = 25.0, is_over: Callable[[], bool] = lambda: False
    ) -> AbstractContextManager[Iterator[ServerEvent]]:
        """Return a context manager for the events of a job.  ``GET /api/v2/jobs/{id}/events``.

        The iteration ends with the stream.  ``http.close()`` ends it from another thread, by
        :class:`ClientClosed`.  Events that are not JSON objects have empty ``data``.

        Args:
            job_id: The id of the job.
            idle: Seconds for which the server may be silent; it sends a comment every 15 seconds.
            is_over: Called whenever the server has sent anything; if it returns True, the iteration
                ends.

        Raises:
            Throttled: The server has too many streams.
            NotSupported: The server has no event streams.
            UnexpectedResponse: The answer is not an event stream, or the stream or a frame of it is
                too large.
            RequestTimeout: The server was silent for ``idle`` seconds.
        """
        return self._events(f"/api/v2/jobs/{segment(job_id)}/events", idle, is_over)

    @contextlib.contextmanager
    def _events(
        self, route: str, idle: float, is_over: Callable[[], bool]
    ) -> Iterator[Iterator[ServerEvent]]:
        accepted = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        with self.http.stream(route, headers=accepted, idle=idle) as stream:
            kind = stream.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "text/event-stream":
                raise UnexpectedResponse(
                    f"GET {route}: expected an event stream, got {kind[:80] or 'no content type'}",
                    method="GET",
                    path=route,
                    status=stream.status,
                )
            yield events_in(stream, is_over)

    def health(self, timeout: float | None = None) -> Mapping[str, Any]:
        """Return the server's report on its health.  ``GET /api/v2/health``, on the proxy only."""
        answer = self.http.json("GET", "/api/v2/health", timeout=timeout, max_bytes=SMALL)
        return mapping(answer, "GET /api/v2/health")

    # -- assets --------------------------------------------------------------------------

    def upload(
        self,
        file: Content | OpenContent,
        file_path: str,
        *,
        content_type: str = "application/octet-stream",
        expected_hash: str | None = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Asset:
        """Upload a file, piece by piece, and return its asset.  ``POST /api/v2/assets``.

        Args:
            file: Its content.
            file_path: The path to store it under, such as ``photo.png`` or ``input/sub/photo.png``.
            content_type: Its MIME type.
            expected_hash: ``blake3:`` and hexadecimal digits; ``None``: unknown.
            timeout: Seconds for the whole upload; ``None``: an hour.
            on_progress: Called with the number of bytes sent and the total number.

        Raises:
            UploadTooLarge: The file is larger than the server accepts.
            FileChanged: The file changed while it was sent.
            Conflict: The bytes that the server received do not have the ``expected_hash``.
        """
        fields = {"content_type": content_type, "file_path": file_path}
        if expected_hash is not None:
            fields["expected_hash"] = expected_hash
        answer = self.http.upload(
            "/api/v2/assets",
            fields,
            file,
            file_path.rpartition("/")[2],
            part="file",
            timeout=timeout,
            on_progress=on_progress,
        )
        return Asset.from_json(answer)

    def from_hash(
        self, hash: str, file_path: str | None = None, *, timeout: float | None = None
    ) -> Asset:
        """Return an asset for the bytes with a hash, without sending them.

        ``POST /api/v2/assets/from-hash``; raises :class:`NotFound` if the server does not have the
        bytes.
        """
        body = {"hash": hash} if file_path is None else {"hash": hash, "file_path": file_path}
        route = "/api/v2/assets/from-hash"
        answer = self.http.json("POST", route, json=body, timeout=timeout, max_bytes=SMALL)
        return Asset.from_json(answer)

    def asset(self, asset_id: str, *, timeout: float | None = None) -> Asset:
        """Return an asset, with a fresh ``url``.  ``GET /api/v2/assets/{id}``."""
        route = f"/api/v2/assets/{segment(asset_id)}"
        return Asset.from_json(self.http.json("GET", route, timeout=timeout, max_bytes=SMALL))

    def delete(self, asset_id: str, *, timeout: float | None = None) -> None:
        """Delete an asset; on a proxy, also for everybody else who uploaded the same bytes.

        ``DELETE /api/v2/assets/{id}``; raises :class:`Conflict` while the asset is in use.
        """
        route = f"/api/v2/assets/{segment(asset_id)}"
        self.http.request("DELETE", route, timeout=timeout, max_bytes=SMALL)


def events_in(stream: Download, is_over: Callable[[], bool]) -> Iterator[ServerEvent]:
    """Yield the events of a stream as they arrive, until ``is_over()`` is true for a chunk."""
    frames = FrameReader()
    for chunk in stream:
        if is_over():
            return
        for frame in frames.feed(chunk):
            yield ServerEvent(frame.event, _data(frame.data))


def _data(text: str) -> Mapping[str, Any]:
    """Return the JSON object in the data of an event; empty if it is invalid or too large."""
    try:
        if size_decoded(text) > _GROWTH * MAX_FRAME:
            return {}
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and is_shallow(found) else {}


# -- rejections -------------------------------------------------------------------------

#: The codes of refused workflows.
_CODES: Final = frozenset({"invalid_workflow", "workflow_format_ui", "missing_asset"})
#: Patterns of ComfyUI's messages, and the types of these errors, which Comfy API v2 leaves out.
_TYPES: Final = {
    r"Prompt has no outputs": "prompt_no_outputs",
    r"Prompt outputs failed validation": "prompt_outputs_failed_validation",
    r"Cannot execute because (a )?node .* does not exist": "missing_node_type",
    r"Node '.*' not found": "missing_node_type",
    r"Cannot execute because .* missing the class_type": "missing_node_type",
}


def rejection(http: Http, exc: ApiError, graph: Mapping[str, Any]) -> PromptRejected | None:
    """Return the :class:`PromptRejected` for a refused workflow; None for any other refusal.

    It has the form of ComfyUI's own refusal: ``error`` with a type, and ``node_errors``.
    """
    if exc.status != 422 or exc.reason not in _CODES:
        return None
    from ..workflow.explain import explain_rejection, problems_of_rejection  # slow to import

    envelope = table_at(exc.body, "error")
    details = table_at(envelope, "details")
    message = text(envelope.get("message"), 2000) or ""
    kind = next((type for words, type in _TYPES.items() if re.match(words, message)), exc.reason)
    node_errors = table_at(details, "node_errors")
    error = {"type": kind, "message": message, "details": "", "extra_info": {}}
    body = {"error": error, "node_errors": node_errors}
    words = http.identity.hide(explain_rejection(body, graph))
    missing = details.get("missing_ids")
    if exc.reason == "missing_asset" and isinstance(missing, list):
        ids = [found for each in missing[:20] if (found := text(each, 300))]
        words = f"{words}\nunknown assets: {', '.join(map(repr, ids))}" if ids else words
    return PromptRejected(
        f"the server refused the workflow:\n{words}",
        error=error,
        node_errors=node_errors,
        problems=problems_of_rejection(body, graph, hide=http.identity.hide),
        method=exc.method,
        path=exc.path,
        status=exc.status,
        body=exc.body,
        reason=exc.reason,
    )
