"""A workflow as a function with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from ..errors import WorkflowError
from ..nearest import nearest
from .address import InputAddress, input_named
from .definition_source import Definitions
from .edit import AnyWorkflow, Workflow
from .graph import as_link, brief, describe, listing

#: An input of a graph: the id of the node and the name.
_Place = tuple[str, str]


@attrs.frozen(init=False, eq=False, repr=False)
class Template:
    """A workflow with names for the inputs that change and for the outputs that matter.

    An application uses names such as ``seed``, ``size`` and ``image``, and only the template knows
    their nodes.  All names are checked when the template is made.  A template never changes: it has
    a copy of the workflow, and each call makes another copy, in which inputs that are not given
    keep their values.

    Example::

        from comfy_client import ComfyApi, Template

        draw = Template(
            "txt2img.json",
            inputs={
                "seed": "KSampler.seed",
                "text": "Positive prompt.text",
                "size": ["EmptyLatentImage.width", "EmptyLatentImage.height"],
            },
            outputs={"image": "SaveImage"},
        )
        with ComfyApi("http://127.0.0.1:8188") as api:
            result = api.run(draw(text="a fox", size=128, seed="random"))
            result.outputs["image"].save("out/")

    Args:
        workflow: A workflow, or a source as for :meth:`Workflow.load`.
        inputs: By name, an input as in :meth:`Workflow.set`, or a list of inputs that all get the
            value.  A tuple is one input, as (node, input).
        outputs: By name, a node by id, title or class; :attr:`Result.outputs` has its outputs
            under that name.
        definitions: As for :meth:`Workflow.load`.

    Raises:
        WorkflowError: An unknown or ambiguous node or input (``candidates`` are names that work),
            an input that is linked to another node, or one input under two names.
        FileNotFoundError: No such file.
    """

    _workflow: Workflow
    _inputs: Mapping[str, tuple[_Place, ...]]
    _outputs: Mapping[str, str]

    def __init__(
        self,
        workflow: AnyWorkflow,
        inputs: Mapping[str, InputAddress | Sequence[InputAddress]] | None = None,
        outputs: Mapping[str, str | int] | None = None,
        *,
        definitions: Definitions | None = None,
    ) -> None:
        own = Workflow(workflow, definitions)
        graph = own.to_dict()
        places: dict[str, tuple[_Place, ...]] = {}
        for name, given in _named(inputs, "inputs").items():
            places[name] = _places(graph, name, given, places)
        named = _named(outputs, "outputs")
        nodes = {name: _node(own, name, given) for name, given in named.items()}
        own.output_names = nodes
        self.__attrs_init__(own, places, nodes)

    @property
    def inputs(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """The inputs by name, each as (node id, input); read-only."""
        return MappingProxyType(dict(self._inputs))

    @property
    def outputs(self) -> Mapping[str, str]:
        """The ids of the output nodes by name; read-only."""
        return MappingProxyType(dict(self._outputs))

    @property
    def defaults(self) -> dict[str, Any]:
        """The values that inputs have if a call leaves them out, by the names in the template.

        A name for several inputs has the value of the first.
        """
        return {
            name: self._workflow.nodes[places[0][0]][places[0][1]]
            for name, places in self._inputs.items()
        }

    def __call__(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> Workflow:
        """Return the workflow with these values, to run, submit, edit or save.

        Args:
            values: Values by input; for names that Python does not take as keywords.
            named: Values by input, too.

        Raises:
            WorkflowError: No such input (``candidates`` are similar ones), or a value that JSON
                cannot represent.
            TypeError: A value is given twice.
        """
        given = {**_named(values, "values"), **named}
        if len(given) < len(named) + len(values or ()):
            twice = next(name for name in named if name in (values or ()))
            raise TypeError(f"the input {twice!r} is given twice")
        for name in given:
            if name not in self._inputs:
                near = nearest(name, self._inputs)
                hint = f"nearest: {listing(near)}" if near else f"it has {self._listed()}"
                raise WorkflowError(
                    f"the template has no input {brief(name)}; {hint}",
                    candidates=near or tuple(self._inputs),
                )
        filled = self._workflow.copy()
        filled.set({place: value for name, value in given.items() for place in self._inputs[name]})
        return filled

    def _listed(self) -> str:
        return listing(self._inputs) or "none"

    def __repr__(self) -> str:
        return f"<Template inputs: {self._listed()}; outputs: {listing(self._outputs) or 'none'}>"


def _named(given: object, what: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict by name, not {brief(given)}")
    for name in given:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{what} must be a dict by name, and {brief(name)} is not a name")
    return given


def _places(
    graph: Mapping[str, Any], name: str, given: Any, others: Mapping[str, tuple[_Place, ...]]
) -> tuple[_Place, ...]:
    """Check the inputs of a graph that a name of the template refers to, and return them."""
    addresses = given if isinstance(given, list) else [given]
    if not addresses:
        raise WorkflowError(f"the input {brief(name)} of the template stands for no input")
    try:
        places = tuple(input_named(graph, address) for address in addresses)
    except WorkflowError as exc:
        text = f"the input {brief(name)} of the template: {exc}"
        raise WorkflowError(text, candidates=exc.candidates) from None
    for node_id, field in places:
        where = f"the input {brief(name)} of the template: {describe(graph, node_id)}"
        link = as_link(graph[node_id]["inputs"][field])
        if link:
            raise WorkflowError(
                f"{where}, input {brief(field)} is linked to {describe(graph, link[0])}; give it "
                "a value first: Workflow.set(..., force=True)"
            )
        taken = next((other for other in others if (node_id, field) in others[other]), None)
        if taken is not None or places.count((node_id, field)) > 1:
            raise WorkflowError(
                f"{where}, input {brief(field)} is named twice"
                + ("" if taken is None else f": it is {brief(taken)}, too")
            )
    return places


def _node(workflow: Workflow, name: str, given: Any) -> str:
    try:
        return workflow[given].id
    except WorkflowError as exc:
        text = f"the output {brief(name)} of the template: {exc}"
        raise WorkflowError(text, candidates=exc.candidates) from None
