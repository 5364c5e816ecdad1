"""V3 classes made of their definitions, the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_client.testing import offer_comfy_api
from comfy_client.testing.v3.inputs import TYPES

with offer_comfy_api():
    from comfy_api.latest import io  # type: ignore[import-not-found]

#: Options that are arguments of another name.
ARGUMENTS = {
    "dynamicPrompts": "dynamic_prompts",
    "forceInput": "force_input",
    "rawLink": "raw_link",
    "widgetType": "widget_type",
}
UPLOADS = {one.value: one for one in io.UploadType}
KINDS = {one.io_type: one for one in TYPES.values() if one.__name__ != "MultiCombo"}


def class_of(definition: Mapping[str, Any]) -> Any:
    """The V3 class that has a definition, as far as definitions tell."""

    def define_schema(cls: Any) -> Any:
        return io.Schema(
            node_id=definition["name"],
            display_name=definition["display_name"],
            category=definition["category"],
            inputs=inputs_of(definition["input"]),
            outputs=list(map(output_of, range(len(definition["output"])), [definition] * 1000)),
            hidden=[io.Hidden[name] for name in definition["input"].get("hidden", {})],
            search_aliases=definition["search_aliases"],
            is_input_list=definition["is_input_list"],
            is_output_node=definition["output_node"],
            is_deprecated=definition["deprecated"],
            is_experimental=definition["experimental"],
            is_dev_only=definition["dev_only"],
            is_api_node=definition["api_node"],
            essentials_category=definition["essentials_category"],
            has_intermediate_output=definition["has_intermediate_output"],
        )

    methods = {
        "define_schema": classmethod(define_schema),
        "execute": classmethod(lambda cls, **_: None),
        "RELATIVE_PYTHON_MODULE": definition["python_module"],
    }
    return type(definition["name"], (io.ComfyNode,), methods)


def inputs_of(groups: Mapping[str, Any]) -> list[Any]:
    return [
        input_of(name, kind, options, optional=group == "optional")
        for group in ("required", "optional")
        for name, (kind, options) in groups.get(group, {}).items()
    ]


def input_of(name: str, kind: str, options: Mapping[str, Any], *, optional: bool = False) -> Any:
    given: dict[str, Any] = {"optional": optional}
    more = dict(options)
    if "," in kind:
        types = [io.Custom(one) for one in kind.split(",")]
        widget = more.get("widgetType")
        named = without(more, "widgetType")
        base = input_of(name, widget, named, optional=optional) if widget else name
        shown = {} if widget else {k: named[k] for k in ("display_name",) if k in named}
        return io.MultiType.Input(base, types, **given, **shown)
    match kind:
        case "COMFY_MATCHTYPE_V3":
            cls, template = io.MatchType.Input, more.pop("template")
            types = [io.Custom(one) for one in template["allowed_types"].split(",")]
            given["template"] = io.MatchType.Template(template["template_id"], types)
        case "COMFY_AUTOGROW_V3":
            cls, template = io.Autogrow.Input, more.pop("template")
            given["template"] = autogrow_of(**template)
        case "COMFY_DYNAMICCOMBO_V3":
            cls, choices = io.DynamicCombo.Input, more.pop("options")
            given["options"] = [
                io.DynamicCombo.Option(one["key"], inputs_of(one["inputs"])) for one in choices
            ]
        case "COMBO":
            cls = io.MultiCombo.Input if more.pop("multiselect") else io.Combo.Input
            for name_there in UPLOADS.keys() & more.keys():
                given["upload"] = UPLOADS[name_there]
                del more[name_there]
        case "CURVE":
            cls, given["default"] = io.Curve.Input, more.pop("default")["points"]
        case _:
            cls = KINDS.get(kind, io.Custom(kind)).Input
    if kind in ("INT", "FLOAT") and "display" in more:
        given["display_mode"] = io.NumberDisplay(more.pop("display"))
    arguments = {ARGUMENTS.get(key, key): value for key, value in more.items()}
    known = {key: value for key, value in arguments.items() if key in cls.SIGNATURE.parameters}
    left = {key: value for key, value in more.items() if ARGUMENTS.get(key, key) not in known}
    return cls(name, **given, **known, extra_dict=left) if left else cls(name, **given, **known)


def autogrow_of(
    input: Mapping[str, Any],
    min: int,
    prefix: str = "",
    max: int = 0,
    names: list[str] | None = None,
) -> Any:
    # The template itself makes a widget one that takes links only.
    [part] = inputs_of(
        {
            group: {n: (kind, without(more, "forceInput")) for n, (kind, more) in parts.items()}
            for group, parts in input.items()
        }
    )
    if names is not None:
        return io.Autogrow.TemplateNames(part, names, min)
    return io.Autogrow.TemplatePrefix(part, prefix, min, max)


def output_of(slot: int, definition: Mapping[str, Any]) -> Any:
    kind, name = definition["output"][slot], definition["output_name"][slot]
    more = {"display_name": name, "is_output_list": definition["output_is_list"][slot]}
    if kind == "COMFY_MATCHTYPE_V3":
        template = io.MatchType.Template(definition["output_matchtypes"][slot])
        return io.MatchType.Output(template, **more)
    return KINDS.get(kind, io.Custom(kind)).Output(**more)


def without(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}
