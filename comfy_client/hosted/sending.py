"""Submitting a job exactly once, and finding one whose submission got no answer.

The id that the client chose for the prompt is the key of the request (``Idempotency-Key``), a label
of the job (``metadata``) and a mark in its graph.  A server accepts a key once, so a request that
may have arrived is sent again with the same key: the job is accepted now, or its key is known, and
the job is found by its label or mark.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from .. import models, runtime
from ..errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    NotFound,
    NotSupported,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    Throttled,
    TransportError,
    UnexpectedResponse,
)
from ..jobs.poller import time_left
from ..jobs.state import PromptState
from ..jobs.tracker import Tracker
from ..routes.prompts import EXTRA_DATA_KEY
from ..transport.deadline import Backoff, Deadline, limited_silence
from .models import HostedJob, HostedJobs, has_mark, marked
from .references import UNKNOWN_ASSET, NameOf, is_about_references, with_names
from .routes import HostedRoutes

if TYPE_CHECKING:
    from collections.abc import Callable

    #: Finds a job by its key where the server has no list; returns the job's id, or None.
    Search = Callable[[str, Deadline], str | None]

#: The forms in which servers accept labels: the proxy a text, serverless deployments texts by name,
#: Comfy Cloud none.
LabelForm = Literal["text", "mapping", "none"]
_FORMS: Final[tuple[LabelForm, ...]] = ("text", "mapping", "none")

#: The server's codes for a label that it does not accept.
_LABEL_REFUSED: Final = frozenset({"metadata_invalid", "metadata_not_supported"})
#: The server's code for a key that it has seen before.
_KEY_KNOWN: Final = "idempotency_key_reuse"
#: The most jobs of a list, the most pages, and the most jobs whose graphs are read for a mark.
_LISTED: Final = 100
_PAGES: Final = 5
_GRAPHS: Final = 20
#: The most jobs that are requested to find out whether a server has lost its memory.
_WITNESSES: Final = 3

_NO_NAME: Final = (
    "the server seems to take no references to assets, and the file's name is not sent instead, as "
    "another file may have it: set the file itself as the input, without a name of your own"
)


@attrs.define(eq=False)
class _SentGraph:
    """A graph that is submitted.

    Attributes:
        graph: The graph, marked.
        named: The graph with file names in place of references, once it is sent so.
        refusal: Why the references were refused.
    """

    graph: dict[str, Any]
    named: dict[str, Any] | None = None
    refusal: ApiError | None = None


@attrs.define(eq=False, repr=False)
class Submission:
    """The submissions of one client, and what it has learned about its server.

    Args:
        routes: The routes of the server.
        form: The form of labels to try first.
        remembers: Whether it is certain that the server remembers keys, even after a restart.
        search: Finds a job by its key where the server has no list of jobs; ``None``: no
            other way.
        name_of: Returns the name of an asset, which no other file can have, or None.
    """

    _routes: HostedRoutes
    _form: LabelForm
    remembers: bool = attrs.field(kw_only=True)
    _search: Search | None = attrs.field(kw_only=True)
    _name_of: NameOf = attrs.field(kw_only=True)
    _takes_references: bool = attrs.field(default=True, init=False)  # to assets; else file names
    _has_list: bool = attrs.field(default=True, init=False)
    # A job that this server has in its list.
    _witness: str | None = attrs.field(default=None, init=False)
    _has_looked: bool = attrs.field(default=False, init=False)

    def send(
        self,
        tracker: Tracker,
        state: PromptState,
        graph: Mapping[str, Any],
        partner_key: str | None,
        deadline: Deadline,
        patience: float,
    ) -> models.QueuedPrompt:
        """Submit a graph as a job, exactly once, and return the server's receipt.

        Raises:
            SubmitUncertain: No answer came and the job was not found, or its key was used before.
            ComfyError: The server refused the job, or certainly did not get it.
        """
        if not (self.remembers or self._has_looked):
            self._look_for_witness(deadline, tracker.timing.question)
        key, total = state.prompt_id, tracker.http.total_timeout
        witness = self._witness  # a later one may be of a server that has forgotten this key
        post = partial(self._post, _SentGraph(marked(graph, key)), key, partner_key)
        try:
            return self._accepted(post(time_left(deadline, total), may_rename=True))
        except ServerUnreachable:
            raise  # nothing was sent
        except ComfyError as exc:
            if getattr(exc, "reason", None) == _KEY_KNOWN:
                why = "its key was used before: an earlier submission may have arrived"
                raise uncertain(key, why) from exc
            if not is_uncertain(exc):
                raise
            cause = exc
        said = "prompt %s: no answer (%s); sending it again under the same key"
        tracker.log.warning(said, key, cause, extra=state.named)
        until = Deadline.after(time_left(deadline, patience))
        return self._accepted(self._settle(tracker, state, post, witness, until, cause))

    def _settle(
        self,
        tracker: Tracker,
        state: PromptState,
        post: Callable[..., str],
        witness: str | None,
        until: Deadline,
        cause: ComfyError,
    ) -> str:
        """Find a job whose submission got no answer, or submit it again; return its id."""
        key, timing, log = state.prompt_id, tracker.timing, tracker.log
        pauses = Backoff(timing.look_up_pause, timing.look_up_cap, factor=1.6, jitter=0.0)
        is_known, why = False, "its server's list does not have it"
        # A proxy lists a job once ComfyUI has taken it.  Its own error means that it is not waiting
        # for that any more.
        is_over = getattr(cause, "reason", None) is not None
        unlisted_since: float | None = None
        wanted = 0.0  # the pause that a busy server wants
        while not until.expired:
            if tracker.wake.wait_stopped(until.left(max(wanted, pauses.next()))):
                raise ClientClosed
            wanted = 0.0
            try:
                with limited_silence(timing.question):
                    found = self.find(key, until)
                    if found is not None:
                        return found
                    limit = Deadline.after(until.left(timing.question))
                    if not is_known and not self.has_kept([witness] if witness else [], limit):
                        why = "a proxy that was restarted may have forgotten it"
                        if witness is not None:
                            break
                    if is_known or not (self.remembers or witness):
                        # It cannot be sent again, only listed later.
                        now = runtime.monotonic()
                        unlisted_since = now if unlisted_since is None else unlisted_since
                        most = timing.look_up if is_known and not is_over else timing.look_up_sure
                        if now - unlisted_since >= most or not (self._has_list or self._search):
                            break
                        continue
                # A server that has forgotten both asset and key would run the job twice.
                return post(until.left(tracker.http.total_timeout), may_rename=self.remembers)
            except ClientClosed:
                raise
            except ComfyError as exc:
                reason = getattr(exc, "reason", None)
                if isinstance(exc, PromptRejected) and reason != UNKNOWN_ASSET:
                    raise  # a refused workflow frees its key, so the key was free: it never arrived
                if reason == _KEY_KNOWN:
                    is_known, why = True, "the server knows its key, but lists no such job"
                elif isinstance(exc, Throttled) and (exc.retry_after or 0.0) < until.left():
                    wanted = exc.retry_after or 0.0  # the server is busy, and has not refused it
                elif not is_uncertain(exc) and not isinstance(exc, ServerUnreachable):
                    why = f"then it was refused: {exc}"
                    break
                else:
                    log.debug("prompt %s: %s", key, exc, extra=state.named)
        raise uncertain(key, f"it was sent, but no answer came ({cause}), and {why}") from cause

    def _accepted(self, job_id: str) -> models.QueuedPrompt:
        if self._routes.http.identity.gives_away(job_id):
            raise UnexpectedResponse("POST /api/v2/jobs: the id of the job is a secret of ours")
        self._witness = job_id
        self.remembers = self.remembers or self._form != "text"  # the proxy takes texts
        return models.QueuedPrompt(job_id)

    def _post(
        self,
        sent: _SentGraph,
        key: str,
        partner_key: str | None,
        timeout: float,
        *,
        may_rename: bool,
    ) -> str:
        """Submit a graph, in another form if the label or references are refused; return the id.

        With ``may_rename``, names may be sent in place of references that were not refused before.
        """
        extra = None if partner_key is None else {"api_key_comfy_org": partner_key}
        deadline = Deadline.after(timeout)
        if sent.named is None and not self._takes_references:
            sent.named = with_names(sent.graph, self._name_of)
        while True:
            form = self._form
            label = label_of(key, form)
            graph = sent.graph if sent.named is None else sent.named
            try:
                job = self._routes.submit(
                    graph, key=key, label=label, extra_data=extra, timeout=deadline.left(timeout)
                )
            except ApiError as exc:
                # A refused submission frees its key.
                if not (self._change_label(exc, form) or self._rename(sent, exc, may_rename)):
                    raise
                continue
            return job.id

    def _change_label(self, exc: ApiError, form: LabelForm) -> bool:
        """Try another form of label if a submission was refused for this one; return whether."""
        if form == "none" or not _is_about_label(exc):
            return False
        if exc.reason in _LABEL_REFUSED:
            self.remembers = True  # no proxy refuses a label so
        self._form = _FORMS[_FORMS.index(form) + 1]
        return True

    def _rename(self, sent: _SentGraph, exc: ApiError, may_rename: bool) -> bool:
        """Send names if a submission was refused for its references; return whether, once.

        A refused name shows that this was not the reason.
        """
        if not is_about_references(exc, sent.graph):
            return False
        if sent.named is not None:
            self._takes_references = True
            if sent.refusal is not None:
                exc.add_note(f"before, its references to assets were refused: {sent.refusal}")
            return False
        if not may_rename:
            return False
        sent.named, sent.refusal = with_names(sent.graph, self._name_of), exc
        if sent.named is None:
            exc.add_note(_NO_NAME)
            return False
        self._takes_references = False
        self._routes.http.log.info("the server refused references to assets, so it gets names")
        return True

    # -- what the server knows -----------------------------------------------------------

    def find(self, key: str, deadline: Deadline) -> str | None:
        """Return the id of the job that was submitted under a key; None if it is not found."""
        return self.look(key, deadline)[0]

    def look(self, key: str, deadline: Deadline) -> tuple[str | None, bool]:
        """Return the id of the job that was submitted under a key, or None if it is not found.

        The second value is whether the list was complete, so that a None is certain; True for a job
        that was found in the list.
        """
        if self._has_list:
            label = label_of(key, self._form)
            for wanted in [label, None] if isinstance(label, Mapping) else [None]:
                found, is_complete = self._look(key, wanted, deadline)
                if found is not None:
                    return found, True
        if self._has_list:
            return None, is_complete
        return None if self._search is None else self._search(key, deadline), False

    def _look(
        self, key: str, wanted: Mapping[str, str] | None, deadline: Deadline
    ) -> tuple[str | None, bool]:
        """Search the listed jobs with the label ``wanted``, or all; return what ``look`` does."""
        unlabelled: list[HostedJob] = []
        pages = 0
        for page in self._pages(wanted, deadline):
            pages += 1
            for job in page.jobs:
                if not job.label:
                    unlabelled.append(job)
                elif is_label_of(key, job.label):
                    return job.id, True
        for job in unlabelled[:_GRAPHS]:  # some gateways drop labels
            if self.carries(job.id, key, deadline):
                return job.id, True
        # A proxy says nothing of what did not fit into a full list.
        is_complete = pages > 0 and not page.truncated and len(page.jobs) < _LISTED
        return None, is_complete and len(unlabelled) <= _GRAPHS

    def labelled(self, deadline: Deadline) -> dict[str, str]:
        """Return the ids of the jobs in the server's list, by the keys in their labels."""
        jobs = [job for page in self._pages(None, deadline) for job in page.jobs]
        found = ((key_in(job.label), job.id) for job in jobs)
        return {key: job_id for key, job_id in found if key is not None}

    def carries(self, job_id: str, key: str, deadline: Deadline) -> bool:
        """Return whether a job's workflow has the mark of a key; False if it is not known."""
        try:
            return has_mark(self._routes.workflow(job_id, timeout=deadline.left()), key)
        except NotFound:
            return False

    def has_kept(self, job_ids: Collection[str], deadline: Deadline) -> bool:
        """Return whether the server still remembers keys, as it knows one of these jobs."""
        if self.remembers:
            return True
        for job_id in [*job_ids][-_WITNESSES:]:
            try:
                self._routes.workflow(job_id, timeout=deadline.left())
            except NotFound:
                continue
            return True
        return False

    def _pages(self, wanted: Mapping[str, str] | None, deadline: Deadline) -> Iterator[HostedJobs]:
        """Yield pages of the server's list of jobs, or of those with these labels.

        Yield nothing if the server has no list.
        """
        cursor = None
        for _ in range(_PAGES if self._has_list else 0):
            try:
                page = self._routes.jobs(
                    label=wanted, limit=_LISTED, cursor=cursor, timeout=deadline.left()
                )
            except NotSupported:
                self._has_list, self.remembers = False, True  # not the proxy
                return
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    def _look_for_witness(self, deadline: Deadline, most: float) -> None:
        """Remember a listed job; a server that forgets it later has forgotten keys, too."""
        try:
            with limited_silence(most):
                page = self._routes.jobs(limit=1, timeout=deadline.left(most))
        except NotSupported:
            self._has_list, self.remembers = False, True  # not the proxy
        except ComfyError:
            return  # the submission will tell
        else:
            self._witness = self._witness or next((job.id for job in page.jobs), None)
        self._has_looked = True


def is_uncertain(exc: ComfyError) -> bool:
    """Return whether a submission that failed with an error may still have arrived."""
    if isinstance(exc, ServerUnreachable):
        return False
    if isinstance(exc, ApiError):
        return (exc.status >= 500 or exc.status == 408) and not isinstance(exc, NotSupported)
    if isinstance(exc, UnexpectedResponse):
        return exc.status < 300 or exc.status >= 500
    return isinstance(exc, TransportError)


def label_of(key: str, form: LabelForm) -> str | Mapping[str, str] | None:
    """Return the label with a key in one of the forms that servers accept; None for ``"none"``."""
    if form == "text":
        return f"{EXTRA_DATA_KEY}={key}"
    return {EXTRA_DATA_KEY: key} if form == "mapping" else None


def key_in(label: str | Mapping[str, str] | None) -> str | None:
    """Return the key in a job's label, in any form; None if it is not a label of this library."""
    if isinstance(label, str):
        name, _, key = label.partition("=")
        return key if name == EXTRA_DATA_KEY else None
    return None if label is None else label.get(EXTRA_DATA_KEY)


def is_label_of(key: str, label: str | Mapping[str, str]) -> bool:
    """Return whether a job's label, in any form, contains a key."""
    return key_in(label) == key


def uncertain(key: str, why: str) -> SubmitUncertain:
    """Return the error for a submission of which it is unknown whether it arrived."""
    return SubmitUncertain(
        f"prompt {key} may run: {why}.  Its Idempotency-Key and the mark in its workflow are {key}",
        prompt_id=key,
    )


def _is_about_label(exc: ApiError) -> bool:
    """Return whether a submission was refused because of the form of its label."""
    if isinstance(exc, AuthenticationError) or exc.status not in (400, 422):
        return False
    reason = getattr(exc, "reason", None)
    return reason in _LABEL_REFUSED or (reason == "invalid_request" and "'metadata'" in str(exc))
