"""Answers about the server itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ..errors import ComfyError
from ..events import LogEntry
from ..values import table, text, whole
from ._base import build, items, mapping


@attrs.frozen
class Device:
    """One compute device of the server."""

    name: str  #: For people; the format varies by backend, so do not parse it.
    type: str | None = None  #: Torch device type: ``cuda``, ``mps``, ``cpu``, ...
    index: int | None = None
    vram_total: int | None = None  #: Bytes, as all that follow.
    vram_free: int | None = None
    torch_vram_total: int | None = None
    torch_vram_free: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> Device:
        """From one item of ``devices``."""
        return build(cls, data)


@attrs.frozen
class SystemStats:
    """The server's versions and memory, from ``GET /system_stats``."""

    #: ``None``: older than September 2024.
    comfyui_version: str | None = None
    python_version: str | None = None
    pytorch_version: str | None = None
    #: ``posix`` or ``nt``; since ComfyUI 0.4 ``linux``, ``win32``, ``darwin``, ...
    os: str | None = None
    ram_total: int | None = None  #: Bytes.
    ram_free: int | None = None  #: Bytes.
    embedded_python: bool | None = attrs.field(default=None, repr=False)
    argv: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    devices: tuple[Device, ...] = ()  #: The main one first; all of them since ComfyUI 0.23.
    #: The fields of ``system``, and ``system`` and ``devices`` as received.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> SystemStats:
        """From ``{"system": {...}, "devices": [...]}``."""
        source = mapping(data, "SystemStats")
        system = mapping(source.get("system"), "SystemStats.system")
        devices = items(source.get("devices") or [], "SystemStats.devices")
        return build(cls, {**source, **system}, devices=tuple(map(Device.from_json, devices)))


@attrs.frozen(eq=False)
class Features(Mapping[str, Any]):
    """What the server says it can do, from ``GET /features``: a mapping.

    Empty on servers before ComfyUI 0.3.45.
    """

    raw: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def from_json(cls, data: object) -> Features:
        """From the answer, or the ``feature_flags`` message."""
        return cls(mapping(data, "Features"))

    def __getitem__(self, name: str) -> Any:
        """One feature, by the server's name for it."""
        return self.raw[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.raw)

    def __len__(self) -> int:
        """How many the server names."""
        return len(self.raw)

    @property
    def supports_preview_metadata(self) -> bool:
        """Whether previews can say which node and prompt they belong to."""
        return self.raw.get("supports_preview_metadata") is True

    @property
    def max_upload_size(self) -> int | None:
        """Largest request body in bytes; ``None`` when the server does not say."""
        size = whole(self.raw.get("max_upload_size"))
        return size if size is not None and size >= 0 else None


@attrs.frozen
class RawLogs:
    """The latest terminal output, from ``GET /internal/logs/raw``."""

    entries: tuple[LogEntry, ...] = attrs.field(repr=False)
    cols: int | None = None  #: Size of the terminal; ``None`` when it has none.
    rows: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> RawLogs:
        """From ``{"entries": [...], "size": {"cols", "rows"}}``."""
        source = mapping(data, "RawLogs")
        size = table(source.get("size")) or {}
        entries = items(source.get("entries"), "RawLogs.entries")
        return cls(
            tuple(map(_log_entry, entries)),
            cols=whole(size.get("cols")),
            rows=whole(size.get("rows")),
            raw=source,
        )


def _log_entry(data: object) -> LogEntry:
    source = mapping(data, "LogEntry")
    return LogEntry(time=text(source.get("t")), text=text(source.get("m")) or "")


@attrs.frozen
class PingResult:
    """Whether the server answers; true in a condition when it does."""

    ok: bool
    elapsed: float  #: Seconds until the answer, or until we gave up.
    error: ComfyError | None = None  #: Why not.

    def __bool__(self) -> bool:
        """Whether the server answered."""
        return self.ok
