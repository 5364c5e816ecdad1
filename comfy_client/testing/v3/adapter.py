"""V3 nodes as the executor runs them: like nodes of V1.

A V3 class has no instances.  Each call gets a copy of the class, whose attributes cannot be set and
which has the hidden inputs as ``cls.hidden``.  Inputs of dynamic combos and autogrow inputs come as
dicts.  Classes of a real ``comfy_api`` run, too.  Each method may import ``comfy_api`` when it is
called.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, ClassVar

from ...workflow.input_specs import Autogrow, InputSpec, walk
from ..definitions import hidden_inputs
from ..node_api import ExecutionBlocker
from .offered import offer_comfy_api
from .schema import HiddenHolder, NodeReturn

#: What the definition of a V3 class has since 2026.
_NEW_KEYS = (
    *("is_input_list", "output_matchtypes", "dev_only", "price_badge", "search_aliases"),
    *("essentials_category", "has_intermediate_output"),
)
_NEW_HIDDEN = "comfy_usage_source"


def is_v3_class(cls: Any) -> bool:
    """Return whether a class follows ComfyUI's V3 conventions."""
    return all(callable(getattr(cls, name, None)) for name in ("define_schema", "execute"))


class V3Node:
    """A call of a V3 node; a subclass for each class has the attributes of a V1 class.

    ``given`` is what the node has in the workflow, ``hidden`` its hidden inputs by kind.
    """

    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    can_expand: ClassVar[bool]
    node_id: ClassVar[str]
    v3: ClassVar[Any]

    def __init__(self, given: Mapping[str, Any], hidden: Mapping[str, Any]) -> None:
        self._given = given
        self._definition = self.told(newer=True)
        kinds = hidden_inputs(self._definition)
        self._hidden = {name: hidden.get(kind) for name, kind in kinds.items()}

    @classmethod
    def told(cls, *, newer: bool) -> dict[str, Any]:
        """Return the definition as a server tells it; raise TypeError if it is not valid."""
        try:
            with offer_comfy_api():
                found: dict[str, Any] = json.loads(json.dumps(cls.v3.GET_NODE_INFO_V1()))
        except Exception as exc:
            raise TypeError(f"{cls.v3.__name__} is not a node class: {exc}") from exc
        found["python_module"] = found["python_module"] or f"custom_nodes.{cls.v3.__module__}"
        if newer:
            return found
        found["output_name"] = [
            name if getattr(output, "has_name", True) else output.io_type
            for name, output in zip(found["output_name"], cls.v3.SCHEMA.outputs, strict=True)
        ]
        inputs = found["input"]
        for group in (inputs.get("hidden", {}), found["input_order"].get("hidden", [])):
            if _NEW_HIDDEN in group:
                group.remove(_NEW_HIDDEN) if isinstance(group, list) else group.pop(_NEW_HIDDEN)
        return {key: value for key, value in found.items() if key not in _NEW_KEYS}

    def run(self, **values: Any) -> Any:
        """Run the node."""
        return self._returned(self._call("execute", values))

    async def run_async(self, **values: Any) -> Any:
        """Run the node whose ``execute`` is a coroutine."""
        return self._returned(await self._call("execute", values))

    def fingerprint(self, **values: Any) -> Any:
        """Return what changes when the node must run again."""
        return self._call("fingerprint_inputs", values)

    def lazy_status(self, **values: Any) -> Any:
        """Return the names of the lazy inputs that the node needs."""
        return self._call("check_lazy_status", values, pairs=True)

    def check(self) -> Callable[..., Any] | None:
        """Return the node's own check of its inputs, or None if it has none."""
        if not _overrides(self.v3, "validate_inputs"):
            return None

        def checked(**values: Any) -> Any:
            result = self._call("validate_inputs", values)
            return finished(result) if inspect.isawaitable(result) else result

        vars(checked)["__signature__"] = inspect.signature(self.v3.validate_inputs)
        return checked

    def _call(self, name: str, values: Mapping[str, Any], *, pairs: bool = False) -> Any:
        arguments = nested(values, _places(self._definition, self._given), pairs=pairs)
        with offer_comfy_api():
            result = getattr(_locked(self.v3, self._hidden), name)(**arguments)
        return _awaited(result) if inspect.isawaitable(result) else result

    def _returned(self, value: Any) -> dict[str, Any]:
        """Return what a V3 node returned as a V1 node would."""
        output = _output(value)
        if output.expand is not None and not self.can_expand:
            raise Exception(
                f"Node {self.v3.__name__}Clone is not expandable, but expand included in "
                "NodeOutput; developer should set enable_expand=True on node's Schema to allow "
                "this."
            )
        found: dict[str, Any] = {}
        if output.ui is not None:
            found["ui"] = output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
        # As in ComfyUI, a block without outputs is lost.
        result = None if not output.args else output.args
        if output.block_execution is not None and (result or output.expand is not None):
            result = (ExecutionBlocker(output.block_execution),) * len(self.RETURN_TYPES)
        if output.expand is not None:
            found["expand"] = output.expand
        if result is not None or output.expand is not None:
            found["result"] = result
        return found


def adapted(cls: Any) -> type[V3Node]:
    """Return a V3 class as the executor runs it.

    Raises:
        TypeError: It is not a node; the message says what is missing.
    """
    try:
        with offer_comfy_api():
            schema = cls.GET_SCHEMA()
        node_id, outputs = schema.node_id, list(schema.outputs or ())
    except Exception as exc:
        raise TypeError(f"{cls.__name__} is not a node class: {exc}") from exc
    if not isinstance(node_id, str) or not node_id:
        raise TypeError(f"{cls.__name__} is not a node class: its node_id is {node_id!r}")
    is_async = inspect.iscoroutinefunction(cls.execute)
    flags: dict[str, Any] = {
        "FUNCTION": "run_async" if is_async else "run",
        "RETURN_TYPES": tuple(output.io_type for output in outputs),
        "OUTPUT_IS_LIST": [output.is_output_list for output in outputs],
        "OUTPUT_NODE": schema.is_output_node,
        "INPUT_IS_LIST": schema.is_input_list,
        "HAS_INTERMEDIATE_OUTPUT": schema.has_intermediate_output,
        "NOT_IDEMPOTENT": schema.not_idempotent,
        "TAKES_ALL": schema.accept_all_inputs,
        "can_expand": schema.enable_expand,
        "node_id": node_id,
        "v3": cls,
    }
    optional = {
        "IS_CHANGED": ("fingerprint_inputs", V3Node.fingerprint),
        "check_lazy_status": ("check_lazy_status", V3Node.lazy_status),
    }
    flags |= {name: method for name, (own, method) in optional.items() if _overrides(cls, own)}
    made: type[V3Node] = type(cls.__name__, (V3Node,), flags)
    made.told(newer=True)  # raises if clients could not read it
    return made


async def _awaited(result: Awaitable[Any]) -> Any:
    with offer_comfy_api():
        return await result


def _overrides(cls: Any, name: str) -> bool:
    """Return whether a class or a base of it, other than that of all nodes, has a method."""
    base = cls.GET_BASE_CLASS()
    own = cls.mro()[: cls.mro().index(base)]
    return any(name in vars(each) for each in own)


def _locked(cls: Any, hidden: Mapping[str, Any]) -> Any:
    """Return a copy of a class with these hidden inputs, whose attributes cannot be set."""

    class Locked(type(cls)):  # type: ignore[misc]  # the class of a class of the user's
        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith("_abc"):  # of abstract classes, set while they are made
                super().__setattr__(name, value)
            else:
                raise AttributeError(
                    f"Cannot modify class attribute '{name}' on locked class '{self.__name__}'"
                )

    return Locked(f"{cls.__name__}Clone", (cls,), {"hidden": HiddenHolder(**hidden)})


def _output(value: Any) -> Any:
    """Return what a node returned as a :class:`NodeReturn`."""
    if value is None:
        return NodeReturn()
    if isinstance(value, tuple):
        return NodeReturn(*value)
    if isinstance(value, dict):
        return NodeReturn.from_dict(value)
    if isinstance(value, ExecutionBlocker):
        return NodeReturn(block_execution=value.message)
    if not hasattr(value, "block_execution"):
        raise Exception(f"Invalid return type from node: {type(value)}")
    return value


def finished(awaitable: Any) -> Any:
    """Return the result of an awaitable, in whatever thread this is."""

    async def waited() -> Any:
        return await awaitable

    with ThreadPoolExecutor(1) as threads:  # this one may have a running loop
        return threads.submit(copy_context().run, asyncio.run, waited()).result()


# -- dynamic inputs ----------------------------------------------------------------------


#: Where an input is in a call's arguments, as a path, and its value if it is not given.
ArgumentPlace = tuple[str, Any]


def _places(definition: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, ArgumentPlace]:
    """Return the places of the inputs that belong to dynamic ones, by their full names."""
    own = {name for group in definition["input"].values() for name in group}
    found: dict[str, ArgumentPlace] = {}
    for spec in walk(definition, given, defaults=False):
        if isinstance(spec, Autogrow):
            parts = [name for name in given if spec.has(name)]
            found |= {name: (name, None) for name in parts}
            if not parts:
                found[spec.name] = spec.name, {}
        elif isinstance(spec, InputSpec) and spec.is_selector:
            if given.get(spec.name) in spec.kind:
                found[spec.name] = f"{spec.name}.{spec.name.rpartition('.')[2]}", None
        elif isinstance(spec, InputSpec) and spec.name not in own:
            found[spec.name] = spec.name, None
    return found


def nested(
    values: Mapping[str, Any], places: Mapping[str, ArgumentPlace], *, pairs: bool = False
) -> dict[str, Any]:
    """Return the arguments of a call, with those of dynamic inputs in dicts.

    With ``pairs``, these are pairs of value and full name.
    """
    found = {name: value for name, value in values.items() if name not in places}
    grown: dict[str, Any] = {}
    for name, (path, default) in places.items():
        *outer, last = path.split(".")
        inside = grown
        for part in outer:
            inside = inside.setdefault(part, {})
        value = values.get(name)
        value = default if value is None else value
        inside[last] = (value, name) if pairs else value
    return {**found, **grown}
