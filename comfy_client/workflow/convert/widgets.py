"""Widgets of a node: which inputs have one, its initial value, and its companions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define

from .specs import Spec


class _Missing:
    """The type of a marker for a missing value; ``null`` is a value."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
#: Types of the widget that chooses a group of inputs, and of the one that repeats rows.
CHOOSER: Final = "COMFY_DYNAMICCOMBO_V3"
ROWS: Final = "COMFY_DYNAMICGROUP_V3"
#: Types for which servers refuse null or convert it: a text becomes "None".
TAKES_NO_NULL: Final = frozenset(("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"))


@define(eq=False)
class Widget:
    """A widget of a node.

    Attributes:
        sent: Whether its value is sent as an input in the prompt.
        kept: Whether it has a place in the saved values.
        hook: The change that the frontend makes to the value when it queues; empty: none.
    """

    name: str
    kind: str
    value: Any
    spec: Spec
    sent: bool = True
    kept: bool = True
    hook: str = ""

    @property
    def is_prompt(self) -> bool:
        """Whether the frontend resolves choices and comments in the text."""
        return self.spec.options.get("dynamicPrompts") is True


def widgets_for(spec: Spec, names: Callable[[], list[str]]) -> list[Widget] | None:
    """Make the widgets of an input, in order; return None if its type has none.

    Args:
        spec: The input.
        names: Returns the names of the widgets that the node has already.
    """
    kind = spec.widget_type
    make = _MAKERS.get(kind) if kind is not None else None
    if make is not None:
        return make(spec)
    if kind == "LOAD_3D":
        return _scene(spec, names())
    return None


def has_widget(spec: Spec) -> bool:
    """Return whether the frontend makes a widget for this input."""
    return is_widget_type(spec.widget_type)


def is_widget_type(kind: str | None) -> bool:
    """Return whether the frontend itself has widgets of a type."""
    return kind in _MAKERS or kind in ("LOAD_3D", ROWS)


def _one(default: Any, *, sent: bool = True, kept: bool = True, hook: str = "") -> _Maker:
    """Return a function that makes one widget, whose value defaults to ``default``."""

    def make(spec: Spec) -> list[Widget]:
        value = spec.options.get("default")
        value = default if value is None else value
        return [Widget(spec.name, spec.type, value, spec, sent, kept, hook)]

    return make


def _button(*names: str) -> _Maker:
    """Return a function that makes a button for each name.

    Buttons take a place in the saved values, but are not sent.
    """
    return lambda spec: [
        Widget(name or spec.name, "BUTTON", "", spec, sent=False) for name in names or ("",)
    ]


def _number(spec: Spec) -> list[Widget]:
    made = _one(0)(spec)
    control = spec.options.get("control_after_generate")
    seed = spec.type == "INT" and spec.name in ("seed", "noise_seed")
    return made + _control(spec) if (seed if control is None else control) else made


def _combo(spec: Spec) -> list[Widget]:
    value: Any = [] if spec.options.get("multi_select") else spec.options.get("default")
    if not value and not spec.options.get("multi_select"):
        first = spec.choices[0] if spec.choices else MISSING
        value = "Loading..." if first is MISSING and spec.options.get("remote") else first
    made = [Widget(spec.name, "COMBO", value, spec)]
    remote = spec.options.get("remote")
    if isinstance(remote, Mapping):
        made.append(Widget("Auto-refresh after generation", "BUTTON", False, spec, sent=False))
        if remote.get("refresh_button"):
            made.append(Widget("refresh", "BUTTON", "refresh", spec))
    if spec.options.get("control_after_generate"):
        made += [*_control(spec), Widget("control_filter_list", "CONTROL", "", spec, sent=False)]
    return made


def _chooser(spec: Spec) -> list[Widget]:
    keys = list(options_of(spec))
    return [Widget(spec.name, CHOOSER, keys[0] if keys else MISSING, spec)]


def _box(spec: Spec) -> list[Widget]:
    made = _one({"x": 0, "y": 0, "width": 512, "height": 512})(spec)
    return made + _button("x", "y", "width", "height")(spec)


def _recorder(spec: Spec) -> list[Widget]:
    hook = "records sound in the browser"
    return [Widget(spec.name, spec.type, "", spec, hook=hook), *_button("")(spec)]


def _player(spec: Spec) -> list[Widget]:
    sent = spec.options.get("sent") is True
    return [Widget(spec.name, spec.type, "", spec, sent=sent, kept=False)]


def _camera(spec: Spec) -> list[Widget]:
    return [Widget(spec.name, spec.type, "", spec, hook="takes a picture in the browser")]


def _scene(spec: Spec, names: list[str]) -> list[Widget]:
    buttons: list[Widget] = []
    if "model_file" in names:
        texts = {
            "upload 3d model": "upload3dmodel",
            "upload extra resources": "uploadExtraResources",
            "clear": "clear",
        }
        buttons = [Widget(name, "BUTTON", value, spec) for name, value in texts.items()]
    hook = "renders its scene in the browser"
    return [*buttons, Widget(spec.name, spec.type, "", spec, hook=hook)]


def _control(spec: Spec) -> list[Widget]:
    return [Widget("control_after_generate", "CONTROL", "randomize", spec, sent=False)]


def options_of(spec: Spec) -> dict[str, Any]:
    """Return the inputs of each option of a dynamic combo, by key."""
    found = {}
    for each in spec.choices:
        if isinstance(each, Mapping) and isinstance(each.get("key"), (str, int, float)):
            found[str(each["key"])] = each.get("inputs")
    return found


_Maker = Callable[[Spec], list[Widget]]
_CURVE: Final = {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}
_MAKERS: Final[dict[str, _Maker]] = {
    "INT": _number,
    "FLOAT": _number,
    "BOOLEAN": _one(False),
    "STRING": _one(""),
    "COMBO": _combo,
    "MARKDOWN": _one(""),
    "TEXTAREA": _one(""),
    "COLOR": _one("#000000"),
    "COLORS": _one([]),
    "BOUNDING_BOX": _box,
    "BOUNDING_BOXES": _one([]),
    "CURVE": _one(_CURVE),
    "RANGE": _one({"min": 0.0, "max": 1.0}),
    "PAINTER": _one("", hook="uploads its canvas from the browser"),
    "COMPOSITOR": _one({}),
    "CHART": _one({}),
    "GALLERIA": _one([]),
    "VIDEO_EDIT": _one({}),
    "LIGHT_INFO_PREVIEW": _one([]),
    "IMAGECOMPARE": _one(["", ""], kept=False),
    "RESOLUTION_PREVIEW": _one(None, sent=False, kept=False),
    "CAMERA_INFO_STATE": _one(None, sent=False, kept=False),
    "IMAGEUPLOAD": _button(),
    "AUDIOUPLOAD": _button(),
    "AUDIO_UI": _player,
    "PREVIEW_3D": _one(""),
    "AUDIO_RECORD": _recorder,
    "WEBCAM": _camera,
    CHOOSER: _chooser,
}


# -- values -----------------------------------------------------------------------------


def as_held(widget: Widget, value: Any) -> Any:
    """Convert a value as its widget does: a multiline field holds text only."""
    is_area = widget.kind == "MARKDOWN" or (
        widget.kind == "STRING" and widget.spec.options.get("multiline")
    )
    return value if isinstance(value, str) or not is_area else text_of(value)


def text_of(value: Any) -> str:
    """Convert a value to text as JavaScript does."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    if isinstance(value, list):
        return ",".join(map(text_of, value))
    return "[object Object]" if isinstance(value, Mapping) else str(value)


def fits(widget: Widget, value: Any) -> bool:
    """Return whether a value has the widget's type, and is in its range and among its choices."""
    options = widget.spec.options
    if widget.kind in ("INT", "FLOAT"):
        return _is_number(value, widget.kind == "INT") and _is_within(value, options)
    if widget.kind == "BOOLEAN":
        return isinstance(value, bool)
    if widget.kind in ("STRING", "TEXTAREA", "MARKDOWN", "COLOR"):
        return isinstance(value, str)
    if widget.kind == CHOOSER:
        return isinstance(value, str) and value in options_of(widget.spec)
    if widget.kind == "COMBO":
        if options.get("multi_select"):
            return isinstance(value, list)
        known = widget.spec.choices
        return not known or options.get("remote") is not None or value in known
    return True


def is_of_type(widget: Widget, value: Any) -> bool:
    """Return whether a value has the widget's type, even if out of range or not a known choice."""
    if value is None and widget.kind in TAKES_NO_NULL:
        return False
    if widget.kind in ("INT", "FLOAT"):
        return _is_number(value, whole=False)
    if widget.kind == "COMBO" and not widget.spec.options.get("multi_select"):
        known = widget.spec.choices
        return fits(widget, value) or type(value) in {type(each) for each in known}
    return fits(widget, value)


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) or (math.isfinite(value) and not (whole and value % 1))


def _is_within(value: float, options: Mapping[str, Any]) -> bool:
    low, high = options.get("min"), options.get("max")
    return not (
        (isinstance(low, (int, float)) and value < low)
        or (isinstance(high, (int, float)) and value > high)
    )


def corrected(widget: Widget, value: Any) -> Any:
    """Round a PrimitiveNode's number as the widget that it feeds would; clamp it for a FLOAT."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    options = widget.spec.options
    try:
        if widget.kind == "INT":
            return _stepped(value, options)
        if widget.kind == "FLOAT":
            return _rounded(value, options)
    except (ArithmeticError, ValueError):
        pass  # numbers beyond any widget
    return value


def _stepped(value: float, options: Mapping[str, Any]) -> float:
    step = _positive(options.get("step")) or 1
    low = options.get("min")
    low = low if isinstance(low, (int, float)) else 0
    if step == 1:
        return value if isinstance(value, int) else math.floor(value + 0.5)
    offset = math.fmod(low, step)
    found = math.floor((value - offset) / step + 0.5) * step + offset
    return int(found) if found == int(found) else found


def _rounded(value: float, options: Mapping[str, Any]) -> float:
    step = _positive(options.get("step")) or 0.5
    digits = max(0, -math.floor(math.log10(step)))
    unit = _positive(options.get("round")) or (10.0**-digits if digits else 0)
    if not unit:
        return value
    found = round(math.floor(value / unit + 0.5) * unit, digits)
    low, high = options.get("min", 0), options.get("max", 2048)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        found = min(max(found, low), high)
    return int(found) if found == int(found) else found


def _positive(value: Any) -> float | None:
    return value if _is_number(value, whole=False) and value > 0 else None
