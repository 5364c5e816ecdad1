"""Answers of ComfyUI-Manager about node packs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ..to_dict import AsDict
from ..values import build, mapping, sequence, table_at, text

_DISABLED_AT = "@"
#: What may make a regular expression of the server slow, and what never does.
_REPEATS: Final = re.compile(r"[*+?{]")
_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
#: The most alternatives of a pattern: each may double the time; the real lists have two at most.
_MOST_ALTERNATIVES: Final = 8


@attrs.frozen
class InstalledPack(AsDict):
    """A node pack that is installed on the server, enabled or not.

    Attributes:
        id: The name that all methods of the Manager take: the id in the registry, or the folder of
            a pack from a git repository.
        ver: The version in the registry, such as ``"1.0.0"``, or the commit of a git repository;
            ``None``: unknown.
        enabled: Whether the server loads it when it starts.
        cnr_id: The id in the registry; ``None`` for a pack from a git repository.
        aux_id: The repository of a pack that the registry lacks; ``None``: there is none.
        raw: The JSON object as received.
    """

    id: str
    ver: str | None = None
    enabled: bool = True
    cnr_id: str | None = None
    aux_id: str | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, eq=False, repr=False)

    @classmethod
    def from_json(cls, key: str, data: object) -> InstalledPack:
        """Parse an entry of ``GET /v2/customnode/installed``, or of Manager 3's route."""
        source = mapping(data, f"InstalledPack {key!r:.80}")
        # A disabled pack of the registry has the key "name@1_0_0".
        registered = text(source.get("cnr_id")) or None
        id = registered or key.partition(_DISABLED_AT)[0]
        return build(cls, source, id=id, cnr_id=registered)

    @property
    def is_git(self) -> bool:
        """Whether the pack is a git repository that the registry lacks."""
        return self.cnr_id is None


@attrs.frozen
class KnownPack(AsDict):
    """A node pack that the Manager knows, and its node classes.

    Attributes:
        id: What ``install`` takes: the id in the registry, or the URL of a git repository or file.
        title: The name for people; ``None``: it has none.
        classes: The names of its node classes.
        pattern: A regular expression for names of further classes; ``None``: there is none.
        raw: The JSON value as received.
    """

    id: str
    title: str | None = None
    classes: tuple[str, ...] = ()
    pattern: str | None = None
    raw: Any = attrs.field(default=None, eq=False, repr=False)

    @classmethod
    def from_json(cls, key: str, data: object) -> KnownPack:
        """Parse an entry of ``GET /v2/customnode/getmappings``: ``[[class...], {...}]``."""
        parts = sequence(data) or ()
        classes = sequence(parts[0], text) if parts else ()
        about = table_at(parts[1]) if len(parts) > 1 else {}
        return cls(
            id=text(key) or "",
            title=text(about.get("title_aux")) or text(about.get("title")),
            classes=classes or (),
            pattern=text(about.get("nodename_pattern"), 1000),
            raw=data,
        )


@attrs.frozen
class KnownModel(AsDict):
    """A model file in the list of a Manager.

    Attributes:
        filename: The name of the file.
        url: Where the Manager gets it.
        save_path: Its folder below ``models``, with subfolders; ``"default"``: that of its type.
        size: Its size for people, such as ``"144MB"``; ``None``: unknown.
        base: The model that it is for, such as ``"SDXL"``; empty: unknown.
        raw: The JSON object as received.
    """

    filename: str
    url: str
    save_path: str = "default"
    size: str | None = None
    base: str = ""
    raw: Mapping[str, Any] = attrs.field(factory=dict, eq=False, repr=False)

    @classmethod
    def from_json(cls, data: object) -> KnownModel | None:
        """Parse an entry of ``externalmodel/getlist``; return None if it names no file or URL."""
        source = table_at(data)
        filename, url = text(source.get("filename")), text(source.get("url"))
        if not filename or not url:
            return None
        return cls(
            filename,
            url,
            text(source.get("save_path")) or "default",
            text(source.get("size")) or None,
            text(source.get("base")) or "",
            source,
        )

    @property
    def kind(self) -> str | None:
        """The kind of models: the first part of ``save_path``; None if the type decides."""
        return None if self.save_path == "default" else self.save_path.partition("/")[0]


@attrs.frozen
class ImportFailure(AsDict):
    """A node pack that the server could not import when it started.

    Attributes:
        id: The pack, as in :class:`InstalledPack`.
        message: The traceback on the server, or its last line.
    """

    id: str
    message: str


@attrs.frozen
class ComfyUIVersions(AsDict):
    """The versions of ComfyUI that the Manager can switch to.

    Attributes:
        versions: All versions, newest first.
        current: The version that runs; ``None``: unknown.
    """

    versions: tuple[str, ...] = ()
    current: str | None = None


def packs_with(class_type: str, packs: Iterable[KnownPack]) -> list[KnownPack]:
    """Return the packs that have a node class: by name first, then by their patterns."""
    named, fitting = list[KnownPack](), list[KnownPack]()
    for pack in packs:
        if class_type in pack.classes:
            named.append(pack)
        # A pattern of the server may only be one that cannot take long.
        elif pack.pattern and _fits(pack.pattern, class_type):
            fitting.append(pack)
    return [*named, *fitting]


def _fits(pattern: str, class_type: str) -> bool:
    special = _ESCAPED.sub("", pattern)
    if _REPEATS.search(special) or special.count("|") > _MOST_ALTERNATIVES:
        return False
    try:
        return re.search(pattern, class_type) is not None
    except re.error:
        return False
