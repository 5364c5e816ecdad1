""":class:`Workflow`: load a workflow, change its inputs by name, save it."""

from __future__ import annotations

import json
import os
import random
import re
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from ..errors import WorkflowError
from ..redaction import sealed
from .address import Inputs, set_inputs
from .graph import check_graph, copied
from .load import Readable, read_source
from .node import Node, Nodes, check_no_node
from .seeds import draw_wanted, randomize

if TYPE_CHECKING:
    from .check import CheckReport
    from .convert import Chooser
    from .definition_source import Definitions
    from .model_files import MissingModel
    from .roles import Role
    from .settable import SettableInputs
    from .ui_format import Prompts, Unread

#: A workflow, or a source to load it from.
AnyWorkflow: TypeAlias = "Workflow | Readable"
#: What :meth:`Workflow.provide` returns, and what it tells of each step.
PlanT_co = TypeVar("PlanT_co", covariant=True)
StepT_co = TypeVar("StepT_co", covariant=True)


class CanProvide(Protocol[PlanT_co, StepT_co]):
    """The extensions of a client that has one to provide what a workflow lacks."""

    def provide(
        self,
        workflow: Workflow,
        *,
        yes: bool | Callable[[PlanT_co], bool] = False,
        on_progress: Callable[[StepT_co], object] | None = None,
        timeout: float | None = None,
    ) -> PlanT_co:
        """Provide what a workflow lacks; see :meth:`Workflow.provide`."""


class HasExtensions(Protocol[PlanT_co, StepT_co]):
    """A client with extensions, such as a :class:`ComfyApi`."""

    @property
    def ext(self) -> CanProvide[PlanT_co, StepT_co]:
        """The extensions."""


class Workflow(Nodes):
    """A workflow in API format, to edit and run.

    Nodes are found by their exact id, title or class, in this order::

        wf = Workflow.load("txt2img.json")
        wf["KSampler"]["seed"] = 7
        wf["Positive prompt"]["text"] = "a lighthouse at dusk"

    The usual inputs have names of their own, whatever the titles: :attr:`positive`,
    :attr:`negative`, :attr:`seed`, :attr:`size` and :attr:`checkpoint`.  :meth:`inputs` lists all.

    Iteration yields the nodes in the order of the file.  A loaded dict is copied and never
    changed.  Two workflows are equal if their graphs are.

    Attributes:
        output_names: Node ids by the names under which :attr:`Result.outputs` has their outputs;
            a :class:`Template` fills it in.
    """

    __slots__ = ("_prompts", "_unread", "output_names")

    output_names: dict[str, str]
    _prompts: Prompts | None
    _unread: Unread | None

    def __init__(
        self,
        source: AnyWorkflow,
        definitions: Definitions | None = None,
        *,
        strict: bool = False,
        dynamic_prompts: int | Chooser | None = None,
        packs: Mapping[str, str] | None = None,
    ) -> None:
        """Read a workflow as :meth:`load` does."""
        if isinstance(source, Workflow):
            super().__init__(source.to_dict())
            self.output_names = dict(source.output_names)
            self._prompts, self._unread = source._prompts, source._unread
        else:
            graph, self._prompts, self._unread = read_source(
                source, definitions, strict=strict, dynamic_prompts=dynamic_prompts, packs=packs
            )
            super().__init__(graph)
            self.output_names = {}

    if not TYPE_CHECKING:  # or any name would pass a type checker

        def __getattr__(self, name: str) -> Any:
            """Raise an AttributeError that says how to get a node of that name, if there is one."""
            if hasattr(type(self), name):  # a property raised it, and does so again
                return object.__getattribute__(self, name)
            is_node = not name.startswith("_") and name in self
            hint = f"; for the node, write workflow[{name!r}]" if is_node else ""
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}{hint}",
                name=name,
                obj=self,
            )

    @classmethod
    def load(
        cls,
        source: AnyWorkflow,
        definitions: Definitions | None = None,
        *,
        strict: bool = False,
        dynamic_prompts: int | Chooser | None = None,
        packs: Mapping[str, str] | None = None,
    ) -> Workflow:
        """Read a workflow, in API format or, with ``definitions``, as the frontend saves it.

        A file in UI format is converted as by the frontend when it queues it.  A
        :class:`ConversionWarning` reports each thing that cannot be done here: a class that the
        server lacks, the work of an extension in the browser, a value that does not fit.

        Example::

            from comfy_client import Workflow

            workflow = Workflow.load("txt2img.json")
            workflow["KSampler"]["seed"] = 7
            workflow.save("changed.json")

        Args:
            source: One of these:

                * a path, the content of a file (``bytes``) or an open file.  It is JSON, or a file
                  that ComfyUI saved with its workflow: PNG, WebP, JPEG, SVG, MP4, MOV, WebM, MKV,
                  FLAC, MP3, Ogg (Opus), GLB, or ``.latent`` and other safetensors files;
                * JSON text (``str`` that begins with ``{``), or a dict, which is copied.  It may
                  be wrapped: ``{"prompt": ...}`` (the body of a ``POST /prompt``), ``{"output":
                  ...}`` (the result of the frontend's ``graphToPrompt``), ``{"workflow": ...}``, or
                  be an entry of the server's history;
                * a :class:`Job`, a :class:`Result`, one of its files, or what
                  :meth:`ComfyApi.get_history`, :meth:`ComfyApi.get_queue` and
                  :meth:`ComfyApi.get_job` return of a prompt;
                * a URL of the server's ``/view``, if ``definitions`` is its client: only that
                  server is asked;
                * another workflow, which is copied.

                If a source has the graph in both formats, the one in API format is used.
            definitions: The server's node definitions, for UI format: a client, or a dict as
                ``GET /object_info`` answers it.  ``None``: none.
            strict: Whether a :class:`ConversionWarning` is a :class:`WorkflowError`.
            dynamic_prompts: The seed, or a ``random.Random``, to resolve the prompts of a file
                in UI format with, as :meth:`resolve_prompts`; ``None``: leave them.
            packs: Node packs by class, for the warnings; ``None``: what the file says.

        Raises:
            FileNotFoundError: No such file.
            WorkflowError: Not JSON (with line and column), not a graph, a file without a
                workflow, larger than 64 MiB, in UI format without ``definitions``, saved by a
                frontend that is too new, or damaged.
            ComfyError: The definitions, or the file at the URL, cannot be fetched: see
                :meth:`ComfyApi.open_image`.
        """
        return cls(source, definitions, strict=strict, dynamic_prompts=dynamic_prompts, packs=packs)

    @classmethod
    def example(cls) -> Workflow:
        """Return a text-to-image workflow, the one that ``comfy-client demo`` runs.

        It runs on the embedded server as it is.  On another server, set a checkpoint first::

            workflow = Workflow.example()
            workflow["CheckpointLoaderSimple"]["ckpt_name"] = api.get_checkpoints()[0]
            workflow["Positive prompt"]["text"] = "a mill in the fog"
            api.run(workflow)
        """
        from importlib.resources import files  # most programs do not need it

        return cls((files("comfy_client") / "demo.json").read_text("utf-8"))

    def set(self, inputs: Inputs, *, force: bool = False) -> None:
        """Set inputs by name: all of them, or none if one is wrong.

        Example::

            from comfy_client import Workflow

            workflow = Workflow.load("txt2img.json")
            workflow.set({"KSampler.seed": 7, "Positive prompt.text": "a fox"})

        Args:
            inputs: Values by input: the node by id, title or class, a dot, and the name of the
                input.  Names may have dots themselves; if that leaves a doubt, write a pair:
                ``{("Upscale 1.5", "model.name"): "x"}``.  A value may be a link:
                ``wf["Loader"].output(0)``; or a file, as in :meth:`Node.set`.
            force: Whether to add inputs that a node does not have yet, and to replace links by
                values.

        Raises:
            WorkflowError: A name is unknown or ambiguous (``candidates`` are names that work),
                two names identify the same input, a link would be lost, a link is bad, or JSON
                cannot represent a value.  Nothing has changed then.
        """
        if isinstance(inputs, Mapping):
            check_no_node(*inputs.values())
        try:
            set_inputs(self._graph, inputs, force=force)
        except WorkflowError as exc:
            inputs = sealed(inputs)  # tracebacks show local variables
            raise exc.with_traceback(None) from None

    @property
    def positive(self) -> str:
        """The positive prompt, found by following the links back from the samplers.

        The way leads through ControlNets, guiders, reroutes and the like to the text encoders, and
        further to the node that holds the text if the encoder's input is linked.  A graph without
        samplers has the input ``prompt`` of its node.  All inputs of the role are set at once: both
        texts of an SDXL encoder, or the encoders of two samplers that have the same prompt.

        Example::

            from comfy_client import Workflow

            workflow = Workflow.load("txt2img.json")
            workflow.positive = "a lighthouse at dusk"
            workflow.seed, workflow.size = 7, (512, 768)
            print(workflow.positive, workflow.negative, workflow.checkpoint)

        Raises:
            WorkflowError: No input has the role, as the text is made by another node; or several
                have it and differ, as those of two samplers with different prompts.  The message
                and ``candidates`` have them by address, for :meth:`set`.  Nothing was set then, and
                ``hasattr(workflow, "positive")`` is False.
            TypeError: When it is set to anything but a ``str``.
        """
        return str(self._role("positive"))

    @positive.setter
    def positive(self, text: str) -> None:
        self._set_role("positive", text)

    @property
    def negative(self) -> str:
        """The negative prompt, found and set as :attr:`positive`.

        A workflow has none if ``ConditioningZeroOut`` cancels it, if the guider has no input for
        it, or if it comes from the encoder of the positive prompt.
        """
        return str(self._role("negative"))

    @negative.setter
    def negative(self, text: str) -> None:
        self._set_role("negative", text)

    @property
    def seed(self) -> int | str:
        """The seed of the samplers, found and set as :attr:`positive`.

        It is the one of a sampler, or of the node that gives it noise; a sampler that adds no noise
        does not count.  Set it to ``"random"`` or -1 to have one drawn for each run.  None
        is drawn for an input of another name, such as that of a PrimitiveInt: a WorkflowError.
        """
        seed: int | str = self._role("seed")
        return seed

    @seed.setter
    def seed(self, seed: int | str) -> None:
        self._set_role("seed", seed)

    @property
    def size(self) -> tuple[int, int]:
        """The width and height of the empty latent in pixels, found and set as :attr:`positive`.

        A workflow that begins with a picture has none, nor has one whose size is computed.
        """
        width, height = self._role("size")
        return width, height

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._set_role("size", size)

    @property
    def checkpoint(self) -> str:
        """The file of the model that the samplers use, found and set as :attr:`positive`.

        It is a checkpoint, or a diffusion model alone; LoRAs and patches are skipped.
        """
        return str(self._role("checkpoint"))

    @checkpoint.setter
    def checkpoint(self, file: str) -> None:
        self._set_role("checkpoint", file)

    def _role(self, role: Role) -> Any:
        from .roles import get_role  # most programs do not need it

        try:
            return get_role(self._graph, role)
        except WorkflowError as exc:
            raise exc.with_traceback(None) from None

    def _set_role(self, role: Role, value: Any) -> None:
        from .roles import set_role

        set_role(self._graph, role, value)

    def inputs(self, definitions: Definitions | None = None) -> SettableInputs:
        """Return the inputs that can be set, with address, value, type and choices.

        Links are left out, as the nodes that they lead to have their own inputs.

        Example::

            from comfy_client import Workflow

            for one in Workflow.load("txt2img.json").inputs():
                print(one.address, one.value)

        Args:
            definitions: A client, or node definitions as ``GET /object_info`` answers them, for
                types, choices and ranges.  ``None``: types are those of the values, and there are
                no choices.

        Returns:
            A :class:`SettableInput` for each; ``print`` and notebooks show them as a table.

        Raises:
            WorkflowError: ``definitions`` are not node definitions.
            ApiError: The server refused to give definitions; :class:`TransportError`: no answer.
        """
        from .settable import settable_inputs  # most programs do not need it

        return settable_inputs(self._graph, definitions)

    def remove(self, node: Node | str | int, *, force: bool = False) -> None:
        """Remove a node.

        Args:
            node: The node, or its id, title or class.
            force: Whether to remove it even if other nodes are linked to it.  The linked inputs are
                removed, too: the server uses its default for an optional one, and refuses the
                outputs that depend on a required one.

        Raises:
            WorkflowError: Other nodes are linked to it (``candidates`` are their inputs), or no
                such node.
        """
        from .bypass import remove  # most programs do not need it

        remove(self._graph, self._id_of(node), force=force)
        self._refresh()

    def mute(self, node: Node | str | int) -> None:
        """Remove a node and all links to it, as the frontend does with the mode Never.

        A workflow in API format has no modes, so the node does not come back: keep a :meth:`copy`.
        This is :meth:`remove` with ``force=True``.
        """
        self.remove(node, force=True)

    def bypass(self, node: Node | str | int, definitions: Definitions) -> list[tuple[str, str]]:
        """Remove a node, and connect its sources directly to its users.

        This is the frontend's mode Bypass: a link to an output of the node is replaced by the link
        of an input of the same type, preferably of the one in the same position::

            workflow.bypass("LoraLoader", api)

        Args:
            node: The node, or its id, title or class.
            definitions: The server's node definitions: a client, or a dict as ``GET
                /object_info`` answers it.  A workflow itself has no types.

        Returns:
            The inputs that have no link any more, as (node id, name), since the node took nothing
            of their type, or nothing was linked there.

        Raises:
            WorkflowError: No such node, or the definitions lack its class.
        """
        from .bypass import bypass  # most programs do not need it

        lost = bypass(self._graph, self._id_of(node), definitions)
        self._refresh()
        return lost

    def randomize_seeds(self, rng: random.Random | None = None) -> dict[str, int]:
        """Put a new seed into each input ``seed`` and ``noise_seed`` that has a value.

        A linked seed stays: set the node where it comes from.  ``"random"`` and -1 are replaced,
        too; to have them drawn anew for each run, leave them in: :meth:`ComfyApi.run` does so.

        Args:
            rng: ``random.Random(1)`` for the same seeds each time; ``None``: the system's.

        Returns:
            The new seeds by node id.  Those of ComfyUI's samplers are below 2**50, as in the
            frontend; others are below 2**31, as some nodes take no more.
        """
        return randomize(self._graph, rng)

    @property
    def loras(self) -> list[Node]:
        """The nodes that load LoRAs: those with an input that names a LoRA file.

        The input is ``lora_name`` in ComfyUI's own nodes.  Nodes of packs may load several, as
        ``lora_name_1`` or ``lora_1``.
        """
        from .loras import loras  # most programs do not need it

        return [self._nodes[node_id] for node_id in loras(self._graph)]

    def add_lora(
        self,
        name: str,
        strength: float = 1.0,
        *,
        clip_strength: float | None = None,
        loader: Node | str | int | None = None,
    ) -> Node:
        """Insert a LoRA between the loader of the model and all nodes that use it.

        The new node goes after LoRAs that are there already.  It is a ``LoraLoader``, or a
        ``LoraLoaderModelOnly`` if the loader has no CLIP or no node uses it.

        Example::

            from comfy_client import Workflow

            workflow = Workflow.load("txt2img.json")
            workflow.add_lora("detail.safetensors", 0.8)

        Args:
            name: The file, as in :meth:`ComfyApi.get_loras`.
            strength: The strength for the model; it may be negative, and 0 does nothing.
            clip_strength: The strength for the CLIP; ``None``: as ``strength``.
            loader: The node, or its id, title or class, whose model and CLIP go through the
                LoRA.  ``None``: the one of a known class, such as ``CheckpointLoaderSimple`` or
                ``UNETLoader``.

        Returns:
            The new node.

        Raises:
            WorkflowError: No known loader, or several (``candidates`` are their ids); or no
                node takes a ``model`` from ``loader``.
        """
        from .loras import add_lora

        known = None if loader is None else self._id_of(loader)
        lora = add_lora(self._graph, name, strength, clip_strength, known)
        self._refresh()
        return self._nodes[lora]

    def resolve_prompts(
        self, rng: int | Chooser | None = None, definitions: Definitions | None = None
    ) -> None:
        r"""Choose one of each ``{a|b}`` in the prompts, and remove comments, as the frontend does.

        Options may contain further choices; ``\{`` is a plain brace; ``// ...`` and ``/* */``
        are comments.  The server sends braces to the model as they are.

        Example::

            from comfy_client import Workflow

            workflow = Workflow.load("txt2img.json")
            workflow["Positive prompt"]["text"] = "a {red|green} fox // or a cat"
            workflow.resolve_prompts(7)

        Args:
            rng: The seed, or a ``random.Random``; ``None``: other choices each time.
            definitions: The server's node definitions, as for :meth:`load`: they say which
                inputs are prompts.  ``None``: those of the file if it was in UI format, where
                promoted texts stay as they are, as on the frontend; else each text with a ``{``.

        Raises:
            WorkflowError: Choices are nested more than 100 deep.
            ComfyError: The definitions cannot be fetched.
        """
        from .convert.dynamic_prompts import resolve_prompts  # seldom needed

        resolve_prompts(self._graph, rng, self._prompts, definitions)

    def check(
        self, definitions: Definitions, *, targets: Collection[str] | None = None
    ) -> CheckReport:
        """Check the workflow as the server would, without sending it; return a report.

        The check finds nodes that the server lacks, missing files, values out of range or of the
        wrong type, missing inputs, bad links, cycles, and nodes that do not run, and suggests what
        would be right.  The server stops at the first unknown class; the report has all problems.

        Requests: ``GET /object_info/{class}`` for classes that the client does not know yet; if a
        class is missing, also ``GET /object_info``, ``GET /node_replacements``, and of a
        ComfyUI-Manager ``GET /v2/customnode/getmappings``, for the name of its node pack; if a
        value names a file of ``[output]`` or ``[temp]``, ``GET /internal/files/{folder}``.

        The rules are those of ComfyUI 0.3.75 to 0.33.  Of loops, since ComfyUI 0.36, only a start
        without an end is found, and the reverse.  Nodes of packs with a check of their own,
        which the server does not describe, may refuse more or less.  Files in subfolders of the
        server's folders are not checked.

        Example::

            from comfy_client import ComfyApi, Workflow

            workflow = Workflow.load("txt2img.json")
            with ComfyApi("http://127.0.0.1:8188") as api:
                report = workflow.check(api)
                print(report)
                for problem in report.errors:
                    print(problem.node_id, problem.input, problem.candidates)

        Args:
            definitions: A client, or node definitions as ``GET /object_info`` answers them.
            targets: Ids of output nodes; only these count, as with
                ``partial_execution_targets``.  ``None``: all.

        Raises:
            WorkflowError: ``definitions`` are not node definitions.
            ApiError: The server refused to give definitions; :class:`TransportError`: no answer.
        """
        from .check import check  # most programs do not need it

        graph = self.to_dict()
        draw_wanted(graph)
        return check(graph, definitions, targets=targets)

    def missing_models(self, definitions: Definitions) -> list[MissingModel]:
        """Return the model files that the workflow names and the server lacks.

        Many files that the frontend saves say where their models come from.  A workflow that was
        loaded from one keeps this, also in API format (``_meta.models`` of a node): :meth:`check`
        and a rejection say it, too.  Nothing is downloaded.

        Example::

            from comfy_client import ComfyApi, Workflow

            workflow = Workflow.load("txt2img.json")
            with ComfyApi("http://127.0.0.1:8188") as api:
                for model in workflow.missing_models(api):
                    print(model.name, model.folder, model.url)

        Args:
            definitions: A client, or node definitions as ``GET /object_info`` answers them.

        Returns:
            A :class:`MissingModel` for each input, in the order of the nodes; files that several
            nodes load are there several times.  Files of nodes whose class the server lacks are
            not, since nothing is known of its folders.  ``print`` and notebooks show a table.

        Raises:
            WorkflowError: ``definitions`` are not node definitions.
            ApiError: The server refused to give definitions; :class:`TransportError`: no answer.
        """
        from .model_files import missing_models  # most programs do not need it

        return missing_models(self._graph, self.check(definitions))

    def provide(
        self,
        api: HasExtensions[PlanT_co, StepT_co],
        *,
        yes: bool | Callable[[PlanT_co], bool] = False,
        on_progress: Callable[[StepT_co], object] | None = None,
        timeout: float | None = None,
    ) -> PlanT_co:
        """Have the server get the node packs and models that it lacks; return what still lacks.

        The plan of this is printed, and carried out if the answer to a question is yes.  Only the
        server's ComfyUI-Manager downloads, and only what the plan names: packs of missing classes
        (the file's own word counts first, then the Manager's lists) and model files (the URL and
        the folder are the file's, or those of the Manager's list).  A pack takes effect by a
        restart of the server, which loses its prompts: if more have come since the question, there
        is another one.  Afterwards all is checked again; values of the new classes are read from
        the file that was loaded.

        What the server has is asked anew each time: if this was killed, call it again.

        Example::

            from comfy_client import ComfyApi, Workflow

            with ComfyApi("http://127.0.0.1:8188") as api:
                workflow = Workflow.load("txt2img.json", api)
                lacking = workflow.provide(api)
                if lacking.ok:
                    api.run(workflow)
                for obstacle in lacking.impossible:
                    print(obstacle)

        Args:
            api: A client, which is a :class:`ComfyApi`.
            yes: Whether to carry out the plan unasked, whatever is impossible besides, or a
                function that gets it and is asked.  With False and without a terminal, nothing is
                installed.
            on_progress: Called with a :class:`~comfy_client.ext.ProvideStep` when each step begins.
            timeout: Seconds for all of it; ``None``: no limit.

        Returns:
            The :class:`~comfy_client.ext.Plan` of what still lacks.  Its ``impossible`` has a
            sentence for each thing that takes a person.

        Raises:
            TaskTimeout: The Manager keeps working on a step; RequestTimeout: the server has not
                come back in time.
            ApiError: The server refused a request; :class:`TransportError`: no answer.
        """
        return api.ext.provide(self, yes=yes, on_progress=on_progress, timeout=timeout)

    def read_rest(self, definitions: Definitions) -> None:
        """Read the values of nodes whose class the server lacked when the file was loaded.

        Such nodes of a file in UI format have only their links until then.  Inputs that were set
        since stay; without such nodes, nothing changes.  :meth:`provide` does it by itself.

        Args:
            definitions: A client, or node definitions as ``GET /object_info`` answers them.

        Raises:
            WorkflowError: As :meth:`load`.
            ComfyError: The definitions cannot be fetched.
        """
        if self._unread is not None:
            from .ui_format import read_rest

            self._prompts, self._unread = read_rest(
                self._graph, self._prompts, self._unread, definitions
            )
            self._refresh()

    def copy(self) -> Workflow:
        """Return an independent copy."""
        return Workflow(self)

    __copy__ = copy

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the graph, in the format of ``POST /prompt``.

        Files that are not uploaded yet are in it as :class:`Upload`.
        """
        graph: dict[str, Any] = copied(self._graph)
        return graph

    def to_json(self) -> str:
        """Return the graph as JSON text, indented, in the order of the nodes.

        Raises:
            WorkflowError: It contains NaN, or another value that JSON cannot represent; or a file
                that is still to be uploaded.
        """
        text = json.dumps(check_graph(self._graph, links=False), indent=2, ensure_ascii=False)
        # Half of a surrogate pair is legal in JSON only as an escape.
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)

    def to_code(self) -> str:
        """Return Python code that builds this workflow: same ids, order, inputs and titles.

        The code uses a :class:`Graph`, with one statement per node, sources first, and ends with
        the variable ``workflow``.  Replace ``Graph()`` by ``Graph(api)`` to have it checked on the
        way.

        Example::

            from comfy_client import Workflow

            print(Workflow.example().to_code())

        Raises:
            WorkflowError: It contains NaN, or a value that is nested too deeply.
        """
        from .codegen import to_code  # most programs do not need it

        return to_code(self._graph)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_json` to a file in UTF-8, and return the path.

        The file appears only when it is complete, and replaces one of that name.  Pipes and devices
        are written to directly.
        """
        return _write(Path(path), (self.to_json() + "\n").encode())


def _write(path: Path, content: bytes) -> Path:
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return path
    from ..replacing import discard, replace  # most programs save none

    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(content)
        replace(temporary, path)
    finally:
        discard(temporary)
    return path


# -- reading ----------------------------------------------------------------------------


def as_workflow(source: AnyWorkflow, definitions: Definitions | None = None) -> Workflow:
    """Convert a source to a :class:`Workflow`, whose ``repr`` in tracebacks shows no values."""
    if isinstance(source, Workflow):
        return source
    try:
        return Workflow(source, definitions)
    except WorkflowError as exc:
        raise exc.with_traceback(None) from None


def with_inputs(source: AnyWorkflow, inputs: Inputs) -> Workflow:
    """Return a copy of a workflow with inputs set, as by :meth:`Workflow.set`.

    Raises:
        WorkflowError: As :meth:`Workflow.set`.
    """
    workflow = as_workflow(source).copy()
    workflow.set(inputs)
    return workflow


def graph_of(source: AnyWorkflow) -> Mapping[str, Any]:
    """Return a workflow's own graph (do not change it), or a copy of another source's graph."""
    return source._graph if isinstance(source, Workflow) else read_source(source)[0]
