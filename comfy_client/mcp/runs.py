"""Prompts of agents: each has its id before it is sent, and its mark on the server.

The id of a call with a key is derived from the key.  So a repeated call, also one after a restart
of this process, finds the prompt in the queue or in the history.  Prompts without a key have the
mark, too: however this process ends, another one finds them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import attrs

from ..client import ComfyApi
from ..errors import ComfyError
from ..jobs.job import Job
from ..workflow import Workflow
from .answers import CallRefused

log: logging.Logger = logging.getLogger("comfy_client")

#: The key in ``extra_data`` of a prompt: a digest of the call.
CALL: Final = "comfy_client_mcp"
#: The most prompts that are kept at hand, with their outputs in memory.
_MOST_KEPT: Final = 100
#: Hidden inputs through which nodes get the key for paid services.
_PAYING: Final = ("AUTH_TOKEN_COMFY_ORG", "API_KEY_COMFY_ORG")


@attrs.frozen
class AgentOptions:
    """How prompts are submitted.

    Attributes:
        mark: Entries of ``extra_data`` by which the prompts of this installation are known.
        allow_spend: Whether nodes may run that call paid services.
        more: Returns further arguments of ``api.submit`` for a workflow, such as a key.
        reserved: A context manager during which no other process submits a prompt with an id;
            yields False if another one does.
    """

    mark: Mapping[str, Any]
    allow_spend: bool = False
    more: Callable[[Workflow], Mapping[str, Any]] = attrs.field(default=lambda _: {})
    reserved: Callable[[str], AbstractContextManager[bool]] = attrs.field(
        default=lambda _: nullcontext(True)
    )


@attrs.define(eq=False)
class Begun:
    """A prompt whose submission has begun, or that was found on the server.

    Attributes:
        prompt_id: Its id.
        digest: The digest of its call; ``None``: it was found.
        job: The future of its job.
        was_sent: Whether it may have been sent.
        is_unwanted: Whether its call was cancelled.
    """

    prompt_id: str
    digest: str | None
    job: Future[Job] = attrs.field(factory=Future)
    was_sent: bool = False
    is_unwanted: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.job.done() and (self.job.exception() is not None or self.job.result().done())


class Runs:
    """The prompts of this process, and those that it finds on the server.

    Args:
        api: The client.
        options: How prompts are submitted.
        threads: Where requests are sent.
    """

    def __init__(self, api: ComfyApi, options: AgentOptions, threads: ThreadPoolExecutor) -> None:
        self._api = api
        self._options = options
        self._threads = threads
        #: Changed by single steps, which need no lock.
        self._begun: dict[str, Begun] = {}

    def new_id(self, key: str | None) -> str:
        """Return the id for a call: one that follows from its key, or else a random one."""
        if key is None:
            return self._api.generate_id()
        owner = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(dict(self._options.mark), sort_keys=True))
        return str(uuid.uuid5(owner, key))

    def begin(
        self, prompt_id: str, call: object, prepare: Callable[[], Workflow], *, may_exist: bool
    ) -> Begun:
        """Begin to submit what ``prepare`` returns, unless that has begun; return at once.

        Args:
            prompt_id: The id from :meth:`new_id`.
            call: The arguments of the call, as JSON.
            prepare: Returns the workflow; called in another thread.
            may_exist: Whether the server may have it from an earlier process.

        Raises:
            CallRefused: Another call had this key.
        """
        digest = hashlib.sha256(json.dumps(call, sort_keys=True).encode()).hexdigest()[:32]
        known = self._begun.get(prompt_id)
        if known is not None and known.digest is None:  # found by its id: its call is not known
            self._begun.pop(prompt_id, None)
        begun, is_new = self._entry(Begun(prompt_id, digest, was_sent=may_exist))
        if is_new:

            def submit() -> Job:
                if not may_exist:
                    return self._submit(begun, prepare())
                # Looks and sends as one step: two processes may get the same call at once.
                with self._options.reserved(prompt_id) as is_reserved:
                    if not is_reserved:
                        step = "it may run: call job with this prompt_id"
                        raise CallRefused("key_busy", "another process sends this run", step)
                    found = self._found(prompt_id)
                    begun.was_sent = found is not None and found.get(CALL) == digest
                    if found is None:
                        return self._submit(begun, prepare())
                _check_digest(found.get(CALL), digest)
                return self._api.job(prompt_id)

            self._start(begun, submit)
        else:
            _check_digest(begun.digest, digest)
        return begun

    def find(self, prompt_id: str) -> Begun:
        """Find a prompt by its id, here or on the server; return at once."""
        begun, is_new = self._entry(Begun(prompt_id, None, was_sent=True))
        if is_new:
            self._start(begun, lambda: self._api.job(prompt_id, must_exist=True))
        return begun

    def job(self, prompt_id: str) -> Job:
        """Return the job of a prompt, here or on the server; block until it is known.

        Raises:
            ComfyError: As ``api.job`` with ``must_exist``.
        """
        begun = self._begun.get(prompt_id)
        if begun is not None and begun.job.done():
            return begun.job.result()
        return self._api.job(prompt_id, must_exist=True)

    def followed(self, prompt_id: str) -> Job | None:
        """Return the job of a prompt if this process follows it; send no request."""
        begun = self._begun.get(prompt_id)
        if begun is None or not begun.job.done() or begun.job.exception() is not None:
            return None
        return begun.job.result()

    def drop(self, begun: Begun) -> None:
        """Cancel the prompt of a cancelled call, as soon as it can be, and no other."""

        def stop(found: Future[Job]) -> None:
            if found.exception() is None:
                try:
                    self.stop(begun)
                except (ComfyError, CallRefused) as exc:
                    log.warning("prompt %s was not cancelled: %s", begun.prompt_id, exc)

        begun.is_unwanted = True
        self._threads.submit(begun.job.add_done_callback, stop)

    def stop(self, begun: Begun) -> bool:
        """Cancel a prompt of this installation; return False if it has ended.

        Raises:
            CallRefused: It is not one of these.
            ComfyError: As :meth:`Job.cancel`.
        """
        job = begun.job.result()
        if begun.digest is None:
            found = self._found(begun.prompt_id)
            if found is None or not self.is_own(found):
                said = "only prompts that this tool has run may be cancelled"
                raise CallRefused("not_yours", said, "leave it alone, or ask the user")
        return job.cancel()

    def is_own(self, extra_data: Mapping[str, Any]) -> bool:
        """Return whether a prompt with this ``extra_data`` comes from this installation."""
        return CALL in extra_data and all(
            extra_data.get(name) == value for name, value in self._options.mark.items()
        )

    # -- in threads ----------------------------------------------------------------------

    def _entry(self, fresh: Begun) -> tuple[Begun, bool]:
        """Return the entry of a prompt, and whether it is the fresh one."""
        begun = self._begun.setdefault(fresh.prompt_id, fresh)
        if len(self._begun) > _MOST_KEPT:
            over = [name for name, one in list(self._begun.items()) if one.is_over]
            for name in over[: len(self._begun) - _MOST_KEPT]:
                self._begun.pop(name, None)
        return begun, begun is fresh

    def _start(self, begun: Begun, work: Callable[[], Job]) -> None:
        def work_and_tell() -> None:
            try:
                job = work()
            except BaseException as exc:
                self._begun.pop(begun.prompt_id, None)  # another call may try again
                begun.job.set_exception(exc)
                if not isinstance(exc, Exception):
                    raise
            else:
                begun.job.set_result(job)

        self._threads.submit(work_and_tell)

    def _found(self, prompt_id: str) -> Mapping[str, Any] | None:
        """Return the ``extra_data`` of a prompt that the server has; None if it has none."""
        queue = self._api.get_queue(workflows_of=(prompt_id,))
        for item in (*queue.running, *queue.pending):
            if item.prompt_id == prompt_id:
                return item.extra_data
        entry = self._api.get_history(prompt_id)
        return None if entry is None else entry.extra_data

    def _submit(self, begun: Begun, workflow: Workflow) -> Job:
        """Check a workflow, and send it; nothing is sent unchecked."""
        workflow.check(self._api).raise_for_errors()
        if not self._options.allow_spend:
            self._check_price(workflow)
        more = dict(self._options.more(workflow))
        own = {**self._options.mark, CALL: begun.digest}
        more["extra_data"] = {**(more.get("extra_data") or {}), **own}
        if begun.is_unwanted:
            raise CallRefused(
                "cancelled", "the call was cancelled before it was sent", "nothing runs"
            )
        begun.was_sent = True
        return self._api.submit(workflow, prompt_id=begun.prompt_id, strict=True, **more)

    def _check_price(self, workflow: Workflow) -> None:
        classes = {node.class_type for node in workflow.nodes.values() if node.class_type}
        definitions = self._api.node_definitions(classes)
        paid = sorted(name for name in classes if costs_money(definitions.get(name)))
        if paid:
            raise CallRefused(
                "costs_money",
                f"nodes call paid services: {', '.join(paid)}",
                "ask the user, who may start this server with --allow-spend",
            )


def costs_money(definition: object) -> bool:
    """Return whether a node calls a paid service, by its definition."""
    if not isinstance(definition, Mapping):
        return False
    groups = definition.get("input")
    hidden = groups.get("hidden") if isinstance(groups, Mapping) else None
    kinds = list(hidden.values()) if isinstance(hidden, Mapping) else []
    return bool(definition.get("api_node")) or any(
        kind in (name, [name]) for kind in kinds for name in _PAYING
    )


def _check_digest(found: object, digest: str) -> None:
    if found != digest:
        said = "the key belongs to an earlier run with other arguments"
        raise CallRefused(
            "key_used", said, "take a new key for a new run; job shows the earlier one"
        )
