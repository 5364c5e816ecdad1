"""The inputs of a node class, in the order in which the frontend shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import define, evolve, field, frozen

from ...values import list_at, table_at
from .era import Era

#: Classes to which the frontend adds a player.
_PLAYERS: Final = frozenset(
    ("LoadAudio", "SaveAudio", "PreviewAudio", "SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced")
)
_UPLOADS: Final = ("image_upload", "animated_image_upload", "video_upload")
_NOTHING: Final[Mapping[str, Any]] = {}
#: Types of widgets whose value the frontend of 2025 sends.
_SENT: Final = {"sent": True}


@frozen(eq=False)
class Spec:
    """An input's definition: type, and options such as ``default``."""

    name: str
    type: str
    options: Mapping[str, Any]

    @property
    def choices(self) -> list[Any]:
        """The options of a COMBO; empty if unknown."""
        return list_at(self.options, "options")

    @property
    def widget_type(self) -> str | None:
        """The type that determines the input's widget; None if the definition forces a link."""
        if self.options.get("forceInput"):
            return None
        kind = self.options.get("widgetType")
        return kind if isinstance(kind, str) and kind else self.type

    def renamed(self, name: str) -> Spec:
        """Return a copy with another name."""
        return evolve(self, name=name)


def spec(name: str, raw: Any, *, optional: bool = False) -> Spec | None:
    """Read an input from ``[type or options of a combo, options]``; return None if malformed."""
    if not isinstance(raw, (list, tuple)) or not raw:
        return None
    kind, options = raw[0], raw[1] if len(raw) > 1 else None
    if not isinstance(options, Mapping):
        options = _NOTHING
    if isinstance(kind, list):
        kind, options = "COMBO", {**options, "options": kind}
    if not isinstance(kind, str):
        return None
    if optional and options.get("defaultInput"):
        options = {**options, "forceInput": True}
    return Spec(name, kind, options)


def grouped(data: Any) -> list[Spec]:
    """Read the inputs of ``{"required": {...}, "optional": {...}}``, in this order."""
    found = (spec(name, raw, optional=optional) for name, raw, optional in _entries(data))
    return [one for one in found if one is not None]


@define(eq=False)
class Catalog:
    """A server's definitions, with the inputs of the classes in use."""

    definitions: Mapping[str, Any]
    era: Era
    _specs: dict[str, list[Spec]] = field(factory=dict)
    _listed: dict[str, list[Spec]] = field(factory=dict)

    def has(self, class_type: str) -> bool:
        """Return whether the server has a class."""
        return isinstance(self.definitions.get(class_type), Mapping)

    def specs(self, class_type: str) -> list[Spec]:
        """Return the inputs of a class, as :func:`specs_of` orders them."""
        found = self._specs.get(class_type)
        if found is None:
            found = specs_of(class_type, self.definitions[class_type], self.era)
            self._specs[class_type] = found
        return found

    def listed(self, class_type: str) -> list[Spec]:
        """Return the inputs of a class in the order of its definition."""
        found = self._listed.get(class_type)
        if found is None:
            given = {each.name: each for each in self.specs(class_type)}
            names = [each.name for each in grouped(self.definitions[class_type].get("input"))]
            found = [given.pop(name) for name in names if name in given] + [*given.values()]
            self._listed[class_type] = found
        return found


def specs_of(class_type: str, definition: Mapping[str, Any], era: Era) -> list[Spec]:
    """Return the inputs of a class in the frontend's order, with those that the frontend adds."""
    given = definition.get("input")
    found = {one.name: one for one in grouped(given)}
    optional = {name for name, _, is_optional in _entries(given) if is_optional}
    order = table_at(definition, "input_order")
    ordered: dict[str, Spec] = {}
    for part, is_optional in (("required", False), ("optional", True)):
        for name in list_at(order, part):
            if isinstance(name, str) and name in found and (name in optional) == is_optional:
                ordered.setdefault(name, found[name])
    ordered |= {name: one for name, one in found.items() if name not in ordered}
    return [*ordered.values(), *_added(class_type, found, era)]


def _added(class_type: str, found: Mapping[str, Spec], era: Era) -> Iterator[Spec]:
    if class_type in _PLAYERS:
        yield Spec("audioUI", "AUDIO_UI", _SENT if era.is_old else _NOTHING)
    elif class_type in ("Preview3D", "SaveGLB"):
        yield Spec("image", "PREVIEW_3D", _NOTHING)
    elif class_type == "PreviewAny" and era.is_old:
        yield Spec("preview", "AUDIO_UI", _SENT)
    audio = found.get("audio")
    if audio is not None and audio.options.get("audio_upload") is True:
        yield Spec("upload", "AUDIOUPLOAD", _NOTHING)
    elif any(one.options.get(key) is True for one in found.values() for key in _UPLOADS):
        yield Spec("upload", "IMAGEUPLOAD", _NOTHING)


def _entries(data: Any) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(data, Mapping):
        for part, optional in (("required", False), ("optional", True)):
            entries = data.get(part)
            if isinstance(entries, Mapping):
                for name, raw in entries.items():
                    yield str(name), raw, optional
