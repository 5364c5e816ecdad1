"""Node classes, and what node packs provide."""

from __future__ import annotations

from functools import partial
from typing import Any

from .. import models
from ..errors import NotFound, NotSupported
from ..transport.deadline import Deadline
from ..transport.http import Http, segment
from ..values import items, mapping, sequence, text, texts, texts_by_name
from ._base import facts_of, read_by_name
from .definitions import ALL, check_size


class NodeRoutes:
    """The nodes that the server has, and the values of their inputs."""

    _http: Http

    def get_node_defs(self, node_name: str | None = None) -> models.NodeDefs:
        """Return the definitions of all node classes, or of one; empty if there is no such class.

        ``GET /object_info`` (half a megabyte to hundreds of megabytes, so keep the answer), or
        ``GET /object_info/{node_name}``.  :meth:`node_definitions` keeps them for you, as JSON.
        ``print`` and notebooks show a table: of one class its inputs, with their types, defaults
        and choices.
        """
        http, most, route = self._http, ALL, "/object_info"
        if node_name is not None:
            most, route = http.total_timeout, f"/object_info/{segment(node_name)}"
        found, size = models.NodeDefs(), 0
        for member in http.members(route, deadline=Deadline(), most=most):
            size += member.size
            check_size(http, size)
            found.update(read_by_name(http, {member.name: member.value}, _node_defs))
        return found

    def get_checkpoints(self) -> list[str]:
        """Return the checkpoints that ``CheckpointLoaderSimple`` accepts.

        ``GET /object_info/CheckpointLoaderSimple``
        """
        return self._options("CheckpointLoaderSimple", "ckpt_name")

    def get_loras(self) -> list[str]:
        """Return the LoRAs that ``LoraLoader`` accepts.

        ``GET /object_info/LoraLoader``
        """
        return self._options("LoraLoader", "lora_name")

    def get_sampler_info(self) -> models.SamplerInfo:
        """Return the samplers and schedulers that ``KSampler`` accepts.

        ``GET /object_info/KSampler``
        """
        node = self._node_def("KSampler")
        return models.SamplerInfo(
            samplers=tuple(_choices(node, "sampler_name")),
            schedulers=tuple(_choices(node, "scheduler")),
        )

    def get_extensions(self) -> list[str]:
        """Return the paths of the web extensions' scripts (``GET /extensions``)."""
        return texts(self._http.json("GET", "/extensions"), "GET /extensions")

    def get_embeddings(self) -> list[str]:
        """Return the names of the embeddings, without extensions (``GET /embeddings``)."""
        return texts(self._http.json("GET", "/embeddings"), "GET /embeddings")

    def get_global_subgraphs(self) -> dict[str, models.GlobalSubgraph]:
        """Return the subgraphs of installed node packs by id, without their ``data``.

        ``GET /global_subgraphs``, since ComfyUI 0.3.67; :class:`NotSupported` before.
        """
        return _subgraphs(self._http.json("GET", "/global_subgraphs"))

    def get_global_subgraph(self, subgraph_id: str) -> models.GlobalSubgraph:
        """Return a subgraph with its ``data``, which is JSON text.

        ``GET /global_subgraphs/{subgraph_id}``, since ComfyUI 0.3.67.

        Raises:
            NotFound: The server has no such subgraph.
            NotSupported: This server has no global subgraphs.
        """
        route = f"/global_subgraphs/{segment(subgraph_id)}"
        entry = self._http.json("GET", route)
        if entry is None:
            raise NotFound(
                f"the server has no subgraph {subgraph_id!r}; get_global_subgraphs() lists them",
                method="GET",
                path=route,
                status=200,
            )
        return models.GlobalSubgraph.from_json(subgraph_id, entry)

    def get_workflow_templates(self) -> dict[str, list[str]]:
        """Return the names of example workflows, by the node pack that provides them.

        ``GET /workflow_templates``, since ComfyUI 0.3.10; :class:`NotSupported` before.
        """
        found = self._http.json("GET", "/workflow_templates")
        read = partial(texts_by_name, what="GET /workflow_templates")
        return read_by_name(self._http, found, read)

    def get_workflow_template(self, module: str, name: str) -> dict[str, Any]:
        """Return an example workflow, in UI format.

        ``GET /api/workflow_templates/{module}/{name}.json``, since ComfyUI 0.3.10.

        Args:
            module: The node pack, a key of :meth:`get_workflow_templates`.
            name: One of its names, without ``.json``.

        Raises:
            NotFound: The pack has no such workflow.
            NotSupported: This server has no workflow templates.
        """
        route = f"/api/workflow_templates/{segment(module)}/{segment(f'{name}.json')}"
        try:
            return dict(mapping(self._http.json("GET", route), f"GET {route}"))
        except NotSupported as exc:
            # These are static files: a missing one looks like a missing route.
            self.get_workflow_templates()
            raise NotFound(
                f"the server has no template {name!r} of {module!r}; "
                "get_workflow_templates() lists them",
                **facts_of(exc),
            ) from None

    def get_i18n(self) -> dict[str, Any]:
        """Return the translations of the node packs, by language.

        ``GET /i18n``, since ComfyUI 0.3.13; :class:`NotSupported` before.
        """
        return dict(mapping(self._http.json("GET", "/i18n"), "GET /i18n"))

    def get_node_replacements(self) -> dict[str, list[models.NodeReplacement]]:
        """Return the replacements of removed node classes, by the removed class.

        ``GET /node_replacements``, since ComfyUI 0.14; :class:`NotSupported` before.  The
        server applies the first of the list to each prompt, unless it still has the old class.
        """
        return read_by_name(self._http, self._http.json("GET", "/node_replacements"), _replacements)

    def _node_def(self, name: str) -> models.NodeDef:
        node = self.get_node_defs(name).get(name)
        if node is None:
            raise NotFound(f"the server has no node class {name}", path=f"/object_info/{name}")
        return node

    def _options(self, name: str, input_name: str) -> list[str]:
        return _choices(self._node_def(name), input_name)


def _node_defs(found: Any) -> models.NodeDefs:
    return models.NodeDefs(
        (name, models.NodeDef.from_json(name, info))
        for name, info in mapping(found, "GET /object_info").items()
    )


def _subgraphs(found: Any) -> dict[str, models.GlobalSubgraph]:
    return {
        subgraph_id: models.GlobalSubgraph.from_json(subgraph_id, entry)
        for subgraph_id, entry in mapping(found, "GET /global_subgraphs").items()
    }


def _replacements(found: Any) -> dict[str, list[models.NodeReplacement]]:
    what = "GET /node_replacements"
    return {
        name: [
            models.NodeReplacement.from_json(one) for one in items(listed, f"{what}: {name!r:.80}")
        ]
        for name, listed in mapping(found, what).items()
    }


def _choices(node: models.NodeDef, input_name: str) -> list[str]:
    choices = sequence(models.combo_options(node.inputs().get(input_name)), text)
    if choices is None:
        raise NotFound(
            f"{node.name} has no choices for {input_name} on this server",
            path=f"/object_info/{node.name}",
        )
    return list(choices)
