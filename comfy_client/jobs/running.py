"""What a sweep needs of a client."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Unpack

from ..recording.secrets import Secrets
from ..routes import Routes
from ..routes.prompts import AnyWorkflow, PromptOptions
from ..workflow.address import Inputs
from .callbacks import Callbacks
from .execute import submit_workflow
from .job import Job
from .parts import Parts


class Running(Routes):
    """A client that submits workflows."""

    parts: Parts

    def submit(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None = None,
        *,
        prompt_id: str | None = None,
        **options: Unpack[PromptOptions],
    ) -> Job:
        """Submit a workflow."""
        raise NotImplementedError

    def job(self, prompt_id: str, workflow: AnyWorkflow | None = None) -> Job:
        """Attach to a prompt."""
        raise NotImplementedError

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions of node classes."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """The URL of its server."""
        raise NotImplementedError


def add_secrets_of(client: Running, secrets: Secrets) -> None:
    """Add the credentials of a client to the secrets."""
    client.parts.http.identity.add_secrets_to(secrets)


def submit_begun(
    client: Running,
    workflow: AnyWorkflow,
    *,
    prompt_id: str,
    wants_previews: bool,
    strict: bool,
    check: bool,
    resubmit: bool,
    begun: Callable[[Job], object],
    options: PromptOptions,
) -> Job:
    """Submit a workflow; ``begun`` gets the job before anything is sent."""
    return submit_workflow(
        client,
        client.parts,
        workflow,
        None,
        options,
        Callbacks(),
        prompt_id=prompt_id,
        strict=strict,
        check=check,
        resubmit=resubmit,
        wants_previews=wants_previews,
        begun=begun,
    )
