"""The differences between servers of Comfy API v2, and their traps for a client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import attrs

from ..active_faults import check_count, check_seconds

#: The places that serve Comfy API v2.
HostedKind = Literal["proxy", "serverless", "cloud"]


def _one_of(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    known = {name: get_args(kind) for name, kind in _CHOICES.items()}[attribute.name]
    if value not in known:
        raise ValueError(f"{attribute.name} must be one of {known}, not {value!r}")


def _count(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        check_count(attribute.name, value)


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_seconds(value, f"{attribute.name} must be")


_Waiting = Literal["expired", "canceled"]
_OutputsAfter = Literal["failed", "always", "never"]
_Labels = Literal["string", "map", "none", "dropped"]
_JobList = Literal["jobs", "records", "none"]
_Range = Literal[416, 502]
_Upstream = Literal["up", "down", "dark", "lost"]
_CHOICES: dict[str, Any] = {
    "cancelled_waiting": _Waiting,
    "outputs_after_status": _OutputsAfter,
    "labels": _Labels,
    "job_list": _JobList,
    "bad_range": _Range,
    "upstream": _Upstream,
}


@attrs.frozen(kw_only=True)
class HostedTraps:
    """The peculiarities and traps of a hosted ComfyUI; the defaults are those of the proxy.

    ``server.gateway.traps`` has the traps that are set, and
    :meth:`~comfy_client.testing.hosted.gateway.Gateway.trap` changes some of them for a while.
    :data:`PROXY`, :data:`SERVERLESS` and :data:`CLOUD` are the traps of the three places.
    Late, lost and cut answers, error pages and refusals are faults: see :class:`Faults`, for
    paths such as ``"/v2/jobs"``, and :func:`hosted_error`.

    Attributes:
        false_expired: Every n-th job that ends is first reported as ``expired``; 0: none.
        false_expired_looks: How many requests about such a job get this false status.
        cancel_lies: Whether a request to cancel is answered with 200 and does nothing; ``None``: if
            the ComfyUI behind the surface is older than 0.26, and so has no route for it.
        cancelled_waiting: The status of a job that was cancelled while it was pending.
        outputs_after_status: Which jobs' streams send outputs after the terminal status.  A stream
            that is opened after the end does so unless this is ``"never"``.
        early_end: Whether streams end with the status ``running``, before the history has the job.
        true_sizes: Whether outputs have their true size, in place of 0.
        true_hashes: Whether outputs have their true hash, in place of null.
        true_ids: Whether outputs have a UUID, in place of a token of about 200 characters.
        assets_by_name_only: Whether references to assets reach ComfyUI as they are, which refuses
            them; a file's name works.
        shares_records: Whether an upload of known bytes gets the record of the first one.
        job_list: ``"jobs"``: whole jobs; ``"records"``: with cursor, without outputs; ``"none"``:
            501.
        events: Whether there are event streams; if not: 501.
        labels: The form of ``metadata``: a string, a map of strings, ``"none"`` (422), or
            ``"dropped"`` without an error.
        relative_urls: Whether URLs are paths without a host.
        storage: Whether content is on another port, at signed URLs, which refuse the headers that
            are meant for the surface.
        url_seconds: For how many seconds a signed URL is valid.
        bad_range: The status for a range that cannot be satisfied.
        every_status: Whether streams send each change of the status and of the queue position.
        cut_stream_after: After how many frames a stream breaks; ``None``: never.
        max_streams: How many streams may be open; further ones get 429.
        keepalive: Seconds of silence before a comment is sent.
        progress_every: Seconds between two frames with progress, or two with previews.
        keeps_state: Whether jobs, keys, assets and URLs survive a restart.
        timestamps: Whether jobs have ``started_at`` and ``completed_at``.
        upstream: The ComfyUI behind: ``"up"``; ``"down"``: refuses connections; ``"dark"``: never
            answers; ``"lost"``: accepts jobs, but its answers are lost.
        places_models: Whether model files can be uploaded.
        unknown_looks: How many requests about a new job are answered with 404.
        v1_seconds: Whether Comfy Cloud's older API has times in seconds, not milliseconds.
        origins: The origins of web pages that may send requests, such as ``"https://app.example"``.

    Raises:
        ValueError: A value is not one of those above.
    """

    false_expired: int = attrs.field(default=0, validator=_count)
    false_expired_looks: int = attrs.field(default=1, validator=_count)
    cancel_lies: bool | None = None
    cancelled_waiting: _Waiting = attrs.field(default="expired", validator=_one_of)
    outputs_after_status: _OutputsAfter = attrs.field(default="failed", validator=_one_of)
    early_end: bool = False
    true_sizes: bool = False
    true_hashes: bool = False
    true_ids: bool = False
    assets_by_name_only: bool = False
    shares_records: bool = True
    job_list: _JobList = attrs.field(default="jobs", validator=_one_of)
    events: bool = True
    labels: _Labels = attrs.field(default="string", validator=_one_of)
    relative_urls: bool = False
    storage: bool = False
    url_seconds: float = attrs.field(default=24 * 3600, validator=_seconds)
    bad_range: _Range = attrs.field(default=502, validator=_one_of)
    every_status: bool = False
    cut_stream_after: int | None = attrs.field(default=None, validator=_count)
    max_streams: int = attrs.field(default=8, validator=_count)
    keepalive: float = attrs.field(default=15.0, validator=_seconds)
    progress_every: float = attrs.field(default=0.5, validator=_seconds)
    keeps_state: bool = False
    timestamps: bool = False
    upstream: _Upstream = attrs.field(default="up", validator=_one_of)
    places_models: bool = False
    unknown_looks: int = attrs.field(default=0, validator=_count)
    v1_seconds: bool = False
    origins: tuple[str, ...] = attrs.field(default=(), converter=_texts)


#: The traps of comfy-api-proxy 0.1.6.
PROXY: HostedTraps = HostedTraps()
#: The traps of a serverless deployment, by its specification; by its client's tests, it takes
#: files by their names only.
SERVERLESS: HostedTraps = HostedTraps(
    cancelled_waiting="canceled",
    outputs_after_status="never",
    true_sizes=True,
    true_hashes=True,
    true_ids=True,
    job_list="records",
    labels="map",
    storage=True,
    url_seconds=3600,
    bad_range=416,
    every_status=True,
    keeps_state=True,
    timestamps=True,
    cancel_lies=False,
    assets_by_name_only=True,
)
#: The traps of Comfy Cloud, by its specification.
CLOUD: HostedTraps = attrs.evolve(
    SERVERLESS, job_list="none", labels="none", assets_by_name_only=False
)
#: The traps by place.
TRAPS: dict[HostedKind, HostedTraps] = {"proxy": PROXY, "serverless": SERVERLESS, "cloud": CLOUD}
