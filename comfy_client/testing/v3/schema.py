"""The base class of V3 nodes, their schema, and what they return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Any, ClassVar

import attrs

from ..node_api import ExecutionBlocker
from .dynamic import DynamicInput, input_groups
from .inputs import SchemaInput, SchemaOutput


class Hidden(str, Enum):  # noqa: UP042  as in ComfyUI: its text is the member's name
    """A value that a node may ask for besides its inputs."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"  # noqa: S105  a name
    api_key_comfy_org = "API_KEY_COMFY_ORG"
    comfy_usage_source = "COMFY_USAGE_SOURCE"


#: What a node of a partner's service asks for, and an output node.
_OF_SERVICES = (Hidden.auth_token_comfy_org, Hidden.api_key_comfy_org, Hidden.comfy_usage_source)
_OF_OUTPUTS = (Hidden.prompt, Hidden.extra_pnginfo)


class HiddenHolder:
    """The values that a node gets besides its inputs; None for what it did not ask for."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        return None


@attrs.define(eq=False)
class PriceBadgeDepends:
    """The inputs on which a price depends."""

    widgets: list[str] = attrs.field(factory=list)
    inputs: list[str] = attrs.field(factory=list)
    input_groups: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class PriceBadge:
    """The price of a node, which the page computes."""

    expr: str
    depends_on: PriceBadgeDepends = attrs.field(factory=PriceBadgeDepends)
    engine: str = "jsonata"

    def as_dict(self, inputs: Iterable[SchemaInput]) -> dict[str, Any]:
        """Return the price as clients get it; raise ValueError for an unknown widget."""
        kinds: dict[str, str] = {}
        for one in inputs:
            first, *inner = one.get_all()
            kinds[one.id] = one.get_io_type()
            kinds |= {f"{first.id}.{each.id}": each.get_io_type() for each in inner}
        if unknown := [name for name in self.depends_on.widgets if name not in kinds]:
            raise ValueError(f"the price depends on {unknown[0]!r}, which is no input")
        widgets = [{"name": name, "type": kinds[name]} for name in self.depends_on.widgets]
        depends_on = {**attrs.asdict(self.depends_on), "widgets": widgets}
        return {"engine": self.engine, "depends_on": depends_on, "expr": self.expr}


@attrs.define(eq=False)
class Schema:
    """The description of a V3 node: its id, inputs, outputs, and how it is shown and run."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[SchemaInput] = attrs.field(factory=list)
    outputs: list[SchemaOutput] = attrs.field(factory=list)
    hidden: list[Hidden] = attrs.field(factory=list)
    description: str = ""
    search_aliases: list[str] = attrs.field(factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    price_badge: PriceBadge | None = None
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False

    def complete(self) -> None:
        """Add what follows from the rest: hidden inputs, and the ids of outputs.

        Raises:
            ValueError: Two inputs or two outputs have the same id.
        """
        self.inputs = list(self.inputs or ())
        self.outputs = list(self.outputs or ())
        asked = [
            *(self.hidden or ()),
            *(_OF_SERVICES if self.is_api_node else ()),
            *(_OF_OUTPUTS if self.is_output_node else ()),
        ]
        self.hidden = list(dict.fromkeys(asked))
        for slot, output in enumerate(self.outputs):
            output.id = output.id or f"_{slot}_{output.io_type}_"
        _check_unique("inputs", [i.id for i in self.inputs if not isinstance(i, DynamicInput)])
        _check_unique("outputs", [output.id for output in self.outputs])

    def told(self, module: str) -> dict[str, Any]:
        """Return the definition of the node, as in ``GET /object_info`` of ComfyUI 0.28."""
        inputs = input_groups(self.inputs)
        if self.hidden:
            inputs["hidden"] = {one.name: (one.value,) for one in self.hidden}
        templates = [getattr(output, "template", None) for output in self.outputs]
        matched = [template.template_id if template else None for template in templates]
        badge = self.price_badge
        return {
            "input": inputs,
            "input_order": {group: list(named) for group, named in inputs.items()},
            "is_input_list": self.is_input_list,
            "output": [output.io_type for output in self.outputs],
            "output_is_list": [output.is_output_list for output in self.outputs],
            "output_name": [output.display_name or output.io_type for output in self.outputs],
            "output_tooltips": [output.tooltip or None for output in self.outputs],
            "output_matchtypes": matched if any(matched) else None,
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": module,
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "dev_only": self.is_dev_only,
            "api_node": self.is_api_node,
            "price_badge": None if badge is None else badge.as_dict(self.inputs),
            "search_aliases": self.search_aliases or None,
            "essentials_category": self.essentials_category,
            "has_intermediate_output": self.has_intermediate_output,
        }


@attrs.define(eq=False)
class NodeReplace:
    """A node class that takes the place of another in prompts, if the server lacks that one."""

    new_node_id: str
    old_node_id: str
    old_widget_ids: list[str] | None = None
    input_mapping: list[dict[str, Any]] | None = None
    output_mapping: list[dict[str, Any]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as in ``GET /node_replacements``."""
        found = attrs.asdict(self)
        return {**found, **{key: found[key] or None for key in found if key.endswith("_mapping")}}


def _check_unique(what: str, ids: list[str | None]) -> None:
    if several := [one for one, count in Counter(ids).items() if count > 1]:
        raise ValueError(f"several {what} are called {several[0]!r}")


class NodeReturn:
    """The return value of a V3 node: its outputs, what is shown, an expansion, or a block."""

    def __init__(
        self, *args: Any, ui: Any = None, expand: Any = None, block_execution: str | None = None
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The outputs, or None if there are none."""
        return self.args or None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NodeReturn:
        """Return what a V1 node would return as a dict."""
        result = data.get("result", ())
        if isinstance(result, ExecutionBlocker):
            return cls(block_execution=result.message)
        return cls(*result, ui=data.get("ui"), expand=data.get("expand"))

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    """The base class of V3 nodes; all their methods are class methods.

    Attributes:
        hidden: While the node runs, what its schema asks for as ``hidden``.
    """

    RELATIVE_PYTHON_MODULE: ClassVar[str | None] = None
    SCHEMA: ClassVar[Schema | None] = None
    hidden: ClassVar[Any] = None

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's schema."""
        raise NotImplementedError

    @classmethod
    def execute(cls, **kwargs: Any) -> Any:
        """Run the node."""
        raise NotImplementedError

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> Any:
        """Return True if the inputs are valid, or what is wrong."""
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        """Return a value that changes when the node must run again."""
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **kwargs: Any) -> list[str]:
        """Return the names of the lazy inputs that the node needs."""
        return [name for name, value in kwargs.items() if value is None]

    @classmethod
    def GET_BASE_CLASS(cls) -> type:
        """Return the class whose methods do not count as the node's own."""
        return ComfyNode

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """Return the node's complete schema.

        Raises:
            TypeError: The class is not a node.
            ValueError: The schema is not valid.
        """
        for name in ("define_schema", "execute"):
            if getattr(cls, name).__func__ is getattr(ComfyNode, name).__func__:
                raise TypeError(f"it has no {name}")
        schema: Schema = cls.define_schema()
        if not isinstance(schema, Schema):
            raise TypeError(f"its define_schema returns {schema!r}, and no io.Schema")
        schema.complete()
        cls.SCHEMA = schema
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """Return the node's definition, as in ``GET /object_info``."""
        return cls.GET_SCHEMA().told(cls.RELATIVE_PYTHON_MODULE or f"custom_nodes.{cls.__module__}")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs, as a V1 node does."""
        inputs: dict[str, Any] = cls.GET_NODE_INFO_V1()["input"]
        return inputs
