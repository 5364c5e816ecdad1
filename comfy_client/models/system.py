"""Answers about the server itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..errors import ComfyError
from ..events import LogEntry
from ..showing.cells import ShownAsTable
from ..to_dict import AsDict
from ..values import build, items, mapping, table, table_at, text, whole

if TYPE_CHECKING:
    from ..showing.tables import Table

#: The most devices that a notebook shows.
_MOST_SHOWN: Final = 32


@attrs.frozen
class Device(AsDict):
    """A compute device of the server.

    Attributes:
        name: The display name.  Its format depends on the backend, so do not parse it.
        type: The torch device type: ``cuda``, ``mps``, ``cpu``, ...
        index: The number of the device; ``None``: it has none.
        vram_total: Total memory of the device, in bytes.
        vram_free: Free memory of the device, in bytes.
        torch_vram_total: Memory that torch has reserved, in bytes.
        torch_vram_free: Memory that torch has reserved and does not use, in bytes.
        raw: The JSON object as received.
    """

    name: str
    type: str | None = None
    index: int | None = None
    vram_total: int | None = None
    vram_free: int | None = None
    torch_vram_total: int | None = None
    torch_vram_free: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> Device:
        """Parse one device in the answer of ``GET /system_stats``."""
        return build(cls, data)


@attrs.frozen
class MonitoredGpu(AsDict):
    """A GPU that the node pack Crystools measures.

    Attributes:
        index: Its number, as in :class:`GpuUsage` and for ``api.ext.monitor.set_gpu``.
        name: The display name.
        raw: The JSON object as received.
    """

    index: int
    name: str
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> MonitoredGpu:
        """Parse one GPU in the answer of ``GET /crystools/monitor/GPU``."""
        return build(cls, data)


@attrs.frozen(repr=False)
class SystemStats(ShownAsTable, AsDict):
    """The server's versions and memory, from ``GET /system_stats``.

    Attributes:
        comfyui_version: The server's version; ``None`` before September 2024.
        python_version: The server's Python, as ``sys.version``.
        pytorch_version: The version of PyTorch.
        os: ``posix`` or ``nt``; since ComfyUI 0.4 ``linux``, ``win32``, ``darwin``, ...
        ram_total: Total main memory, in bytes.
        ram_free: Free main memory, in bytes.
        embedded_python: Whether the server runs on the Python of the portable Windows build.
        argv: The command line of the server.
        devices: The compute devices, the main one first.  Before ComfyUI 0.23 only the main one.
        raw: The JSON object as received, with the fields of ``system`` added to its top level.
    """

    comfyui_version: str | None = None
    python_version: str | None = None
    pytorch_version: str | None = None
    os: str | None = None
    ram_total: int | None = None
    ram_free: int | None = None
    embedded_python: bool | None = None
    argv: tuple[str, ...] | None = None
    devices: tuple[Device, ...] = ()
    raw: Mapping[str, Any] = attrs.field(factory=dict, eq=False)

    def __repr__(self) -> str:
        from ..showing.html import short_line

        memory = _free(self.ram_free, self.ram_total)
        facts = [
            f"ComfyUI {self.comfyui_version or 'of unknown version'}",
            *([f"memory {memory}"] if memory else []),
        ]
        for device in self.devices[:1]:
            free = _free(device.vram_free, device.vram_total)
            facts.append(f"{device.name} {free}" if free else device.name)
        return f"<SystemStats {short_line(', '.join(facts), 200)}>"

    def _table(self) -> Table:
        from ..showing.tables import Table

        facts = {
            "ComfyUI": self.comfyui_version,
            "Python": self.python_version,
            "PyTorch": self.pytorch_version,
            "system": self.os,
            "memory": _free(self.ram_free, self.ram_total),
        }
        facts |= {
            f"{device.name} ({device.type or 'device'})": _free(device.vram_free, device.vram_total)
            for device in self.devices[:_MOST_SHOWN]
        }
        return Table((), [(name, fact) for name, fact in facts.items() if fact])

    @classmethod
    def from_json(cls, data: object) -> SystemStats:
        """Read ``{"system": {...}, "devices": [...]}``."""
        source = mapping(data, "SystemStats")
        system = mapping(source.get("system"), "SystemStats.system")
        devices = items(source.get("devices") or [], "SystemStats.devices")
        return build(cls, {**source, **system}, devices=tuple(map(Device.from_json, devices)))


def _free(free: int | None, total: int | None) -> str | None:
    """Format memory as ``5.9 of 8.0 GiB free``; return None if a size is unknown."""
    if free is None or total is None:
        return None
    try:
        return f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    except OverflowError:
        return None


@attrs.frozen(eq=False)
class Features(Mapping[str, Any]):
    """A mapping of the server's feature flags, from ``GET /features``.

    Empty on servers before ComfyUI 0.3.45.

    Attributes:
        raw: The JSON object as received.
    """

    raw: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def from_json(cls, data: object) -> Features:
        """Parse the answer, or the data of a ``feature_flags`` message."""
        return cls(mapping(data, "Features"))

    def __getitem__(self, name: str) -> Any:
        """Return the value of a feature flag by its name."""
        return self.raw[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the feature flags."""
        return iter(self.raw)

    def __len__(self) -> int:
        """Return the number of feature flags."""
        return len(self.raw)

    @property
    def supports_preview_metadata(self) -> bool:
        """Whether the server can say which node and prompt a preview belongs to."""
        return self.raw.get("supports_preview_metadata") is True

    @property
    def max_upload_size(self) -> int | None:
        """The largest request body that the server accepts, in bytes; ``None`` if unknown."""
        size = whole(self.raw.get("max_upload_size"))
        return size if size is not None and size >= 0 else None

    @property
    def node_replacements(self) -> bool:
        """Whether the server replaces removed node classes (ComfyUI 0.14 and newer)."""
        return self.raw.get("node_replacements") is True

    @property
    def assets(self) -> bool:
        """Whether the routes below ``/api/assets`` are switched on, by ``--enable-assets``."""
        return self.raw.get("assets") is True

    @property
    def manager(self) -> Mapping[str, Any]:
        """The feature flags of ComfyUI-Manager, such as ``supports_v4``; empty if there are none.

        Newer servers name some, whether the Manager is switched on or not.
        """
        return table_at(self.raw, "extension", "manager")


@attrs.frozen
class RawLogs(AsDict):
    """The latest terminal output, from ``GET /internal/logs/raw``.

    Attributes:
        entries: The latest pieces of output, oldest first.
        cols: The width of the terminal in columns; ``None``: unknown.
        rows: The height of the terminal in lines; ``None``: unknown.
        raw: The JSON object as received.
    """

    entries: tuple[LogEntry, ...] = attrs.field(repr=False)
    cols: int | None = None
    rows: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> RawLogs:
        """Read ``{"entries": [...], "size": {"cols", "rows"}}``."""
        source = mapping(data, "RawLogs")
        size = table(source.get("size")) or {}
        return cls(
            tuple(map(_log_entry, items(source.get("entries"), "RawLogs.entries"))),
            cols=whole(size.get("cols")),
            rows=whole(size.get("rows")),
            raw=source,
        )


def _log_entry(data: object) -> LogEntry:
    source = mapping(data, "LogEntry")
    return LogEntry(time=text(source.get("t")), text=text(source.get("m")) or "")


@attrs.frozen
class PingResult(AsDict):
    """The result of a ping; it is true in a condition if the server answered.

    Attributes:
        ok: Whether the server answered.
        elapsed: Seconds until the answer or the failure.
        error: Why there was no answer; ``None`` if there was.
    """

    ok: bool
    elapsed: float
    error: ComfyError | None = None

    def __bool__(self) -> bool:
        """Return whether the server answered."""
        return self.ok
