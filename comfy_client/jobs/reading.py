"""The methods of a client that read a workflow, with what they ask the server for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

import attrs

from ..errors import ComfyError
from ..events import ErrorEvent
from ..routes import Routes
from ..routes.definitions import NodeDefinitions
from ..routes.inputs import with_files_sent
from ..routes.prompts import AnyWorkflow, PromptOptions
from ..signals import Receivers
from ..transport.deadline import Deadline
from ..transport.http import MAX_TRANSFER
from ..workflow.address import Inputs
from ..workflow.edit import Workflow, as_workflow, with_inputs


@attrs.frozen(eq=False, repr=False)
class _Source:
    """A source of definitions for a workflow, until a deadline."""

    routes: Routes
    definitions: NodeDefinitions
    deadline: Deadline

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        return self.definitions.get(classes, refresh=refresh, deadline=self.deadline)

    def get_node_replacements(self) -> Mapping[str, Any]:
        return self.routes.get_node_replacements()

    def open_image(self, info: str) -> BinaryIO:
        return self.routes.open_image(info, timeout=self.deadline.left(MAX_TRANSFER))


class Reading(Routes):
    """The part of a client that reads workflows."""

    _receivers: Receivers
    _definitions: NodeDefinitions

    def _check_open(self) -> None:
        """Raise :class:`ClientClosed` after ``close()``."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """The server's URL, without credentials."""
        return self._http.address.http_url

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Definitions of node classes as JSON, by class; the client keeps them.

        ``GET /object_info/{class}`` for each of up to 16 classes that it does not know yet,
        else ``GET /object_info`` (half a megabyte to tens of megabytes; up to ``max_json``).  It
        forgets them when its event socket connects anew, since the server may have been
        restarted with other node packs.  Choices of files are as old as the definitions:
        ``refresh`` shows models that were added since.  Threads may ask at once; one request
        serves them all.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                sampler = api.node_definitions(["KSampler"])["KSampler"]
                print(sampler["input"]["required"]["steps"])

        Args:
            classes: The classes that you need; those that the server lacks are not in the
                answer.  ``None``: all.
            refresh: Ask the server again for these classes.

        Returns:
            A new dict; do not change the definitions in it, which the client keeps.

        Raises:
            TypeError: ``classes`` is a ``str``.
            UnexpectedResponse: More than ``max_json`` bytes, or no definitions.
            ApiError: The server refused; :class:`TransportError`: no answer, or not in time.
            ClientClosed: After :meth:`close`.
        """
        if isinstance(classes, str):
            raise TypeError(f"classes is a list of names, such as [{classes!r:.80}]")
        self._check_open()
        return self._definitions.get(classes, refresh=refresh, deadline=Deadline())

    def _read(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None,
        options: PromptOptions,
        *,
        check: bool,
        deadline: Deadline,
    ) -> Workflow:
        """Return the workflow to submit, with its files uploaded and, with ``check``, checked."""
        source = _Source(self, self._definitions, deadline)
        try:
            known = as_workflow(workflow, source)
            known = known if inputs is None else with_inputs(known, inputs)
            if check:
                targets = options.get("partial_execution_targets")
                known.check(source, targets=targets).raise_for_errors()
            return with_files_sent(self, known, deadline)
        except ComfyError as exc:
            self._receivers.publish(ErrorEvent(name="queue_error", error=exc))
            raise
