"""The work that gives a server what a workflow lacks, by its Manager and by a plan.

The state is the server's alone, so that another process can carry on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Literal

import attrs

from .. import runtime
from ..connecting import wait_until_ready
from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    ManagerRefused,
    NotFound,
    NotSupported,
    RequestTimeout,
    TaskFailed,
)
from ..jobs.execute import Parts
from ..models.packs import InstalledPack
from ..routes import Routes
from ..showing.screen import is_notebook
from ..to_dict import AsDict
from ..transport.deadline import Deadline, limited_silence
from ..transport.failures import is_away
from ..values import T
from ..workflow import Workflow
from ..workflow.check import check
from ..workflow.graph import shorten
from .manager import Manager
from .pack_names import folder_of, kinds_of
from .plan import (
    Obstacle,
    Plan,
    PlannedModel,
    PlannedPack,
    ServerFacts,
    WorkflowNeeds,
    is_loaded,
    kinds_in,
    make_plan,
)
from .plan import needs_of as needs_by
from .tasks import Task

#: Seconds between two looks at the work of others.
_PAUSE: Final = 0.5
#: Seconds in which a server must be back after its restart.
_RESTART: Final = 300.0
#: The most plans that are carried out: a new class may need a model that nobody knew of before.
_ROUNDS: Final = 3
#: How often the server may go away meanwhile.
_OUTAGES: Final = 3

#: What a step is about.
_What = Literal["wait", "install", "enable", "download", "restart"]
#: What is asked, or the answer.
Consent = bool | Callable[[Plan], bool]


@attrs.frozen
class ProvideStep(AsDict):
    """A step of :meth:`Workflow.provide` that begins.

    Attributes:
        kind: ``"wait"`` until the Manager has done the work of others, ``"install"`` or
            ``"enable"`` a pack, ``"download"`` a model, or ``"restart"`` the server.
        name: The pack or the file; empty for the others.  The workflow may have it: ``str()``
            shows it without control characters.
        done: How many steps of the plan are done.
        total: How many there are; 0: no plan has been made yet.
    """

    kind: _What
    name: str
    done: int
    total: int

    def __str__(self) -> str:
        words = {"wait": "wait for other work of the Manager", "restart": "restart the server"}
        text = words.get(self.kind) or f"{self.kind} {shorten(self.name, 200)}"
        return f"{text} ({self.done + 1} of {self.total})" if self.total else text


class _Fresh:
    """The definitions of a server as they are now: a file may have been added."""

    def __init__(self, owner: Routes, parts: Parts, deadline: Deadline) -> None:
        self._parts = parts
        self._deadline = deadline
        self.get_node_replacements = owner.get_node_replacements
        self.get_internal_files = owner.get_internal_files

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return definitions by class."""
        return self._parts.definitions.get(classes, refresh=True, deadline=self._deadline)

    def node_names(self, *, for_a_hint: bool = False) -> Collection[str]:
        """Return no names: no hint is needed."""
        return ()


@attrs.define(eq=False)
class Providing:
    """State of providing for one workflow.

    Attributes:
        owner: The client.
        parts: Its parts.
        workflow: The workflow, whose inputs may be set to the names of new files.
        on_progress: Called with each step.
        deadline: When it must end.
        tried: What was done (None), and why the rest could not be done: nothing is tried twice.
        has_begun: Whether the server has answered.
    """

    owner: Routes
    parts: Parts
    workflow: Workflow
    on_progress: Callable[[ProvideStep], object] = lambda step: None
    deadline: Deadline = attrs.field(factory=Deadline)
    tried: dict[str, Obstacle | None] = attrs.field(factory=dict, init=False)
    has_begun: bool = attrs.field(default=False, init=False)

    @property
    def manager(self) -> Manager:
        """The Manager of the server."""
        return Manager(self.owner, self.parts)

    def run(self, yes: Consent) -> Plan:
        """Make plans and carry them out; return the last one.

        If the server goes away meanwhile, as others may restart it too, begin again.
        """
        for _ in range(_OUTAGES):
            try:
                return self._run(yes)
            except ComfyError as exc:
                if not (self.has_begun and is_away(exc)) or self.deadline.expired:
                    raise
            wait_until_ready(self.owner, self.parts, self.deadline.left(_RESTART))
            self.tried = {key: failed for key, failed in self.tried.items() if failed is not None}
        return self._run(yes)

    def _run(self, yes: Consent) -> Plan:
        self._wait_for_others()
        plan = self.plan()
        self.has_begun = True
        for _ in range(_ROUNDS):
            if not (plan.packs or plan.models) or not _agrees(plan, yes):
                break
            self._carry_out(plan)
            plan = self.plan()
        return plan

    def _wait_for_others(self) -> None:
        """Wait while the Manager works: it may be what an earlier process has begun."""
        try:
            is_told = False
            while self._ask(self.manager.is_working):
                self.has_begun = True
                if not is_told:
                    self.on_progress(ProvideStep("wait", "", 0, 0))
                is_told = True
                self._left("other work of the Manager has not ended")
                runtime.sleep(self.deadline.left(_PAUSE))
        except NotSupported:
            return

    def _left(self, what: str) -> float | None:
        """Return the seconds that are left; raise RequestTimeout if there are none."""
        if self.deadline.expired:
            raise RequestTimeout(f"{what} in time; call it again to go on")
        left = self.deadline.left()
        return None if left == float("inf") else left

    def _ask(self, question: Callable[[], T]) -> T:
        """Return what a question to the server returns, in the time that is left."""
        self._left("it is not known what the workflow lacks")
        with limited_silence(self.deadline.left()):
            return question()

    # -- planning ------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Return the plan for what lacks now, without what was tried."""
        fresh = _Fresh(self.owner, self.parts, self.deadline)
        self._ask(lambda: self.workflow.read_rest(fresh))
        graph = self.workflow.to_dict()
        needs = needs_by(graph, self._ask(lambda: check(graph, fresh)).errors)
        found = make_plan(needs, self._facts(needs))
        obstacles = [*self._told(found.packs), *self._told(found.models), *found.impossible]
        return attrs.evolve(
            found,
            packs=tuple(one for one in found.packs if _key(one) not in self.tried),
            models=tuple(one for one in found.models if _key(one) not in self.tried),
            impossible=tuple(dict.fromkeys(obstacles)),
        )

    def _told(
        self, planned: tuple[PlannedPack, ...] | tuple[PlannedModel, ...]
    ) -> Iterator[Obstacle]:
        """Yield why things that are still planned were not provided when they were tried."""
        for one in planned:
            if _key(one) in self.tried:
                yield self.tried[_key(one)] or _still_missing(one)

    def _facts(self, needs: WorkflowNeeds) -> ServerFacts:
        if not (needs.classes or needs.models or needs.declared):
            return ServerFacts()
        comfyui = self._ask(self.owner.get_system_stats).comfyui_version
        files = {kind: self._ask(partial(self._files, kind)) for kind in kinds_in(needs)}
        facts = ServerFacts(comfyui=comfyui, files=files)
        manager = self.manager
        try:
            facts = attrs.evolve(facts, manager=self._ask(lambda: manager.dialect))
        except NotSupported:
            return facts
        if needs.classes:
            installed = self._ask(manager.installed)
            failures = self._ask(manager.failed_imports) if installed else []
            facts = attrs.evolve(
                facts,
                installed=installed,
                at_start=self._at_start(),
                known=self._ask(manager.mappings),
                failures={one.id: one.message for one in failures},
                queued=self._queued(),
            )
        if needs.models or needs.declared:
            facts = attrs.evolve(facts, listed=tuple(self._ask(manager.models)))
        return facts

    def _at_start(self) -> Mapping[str, InstalledPack]:
        return self._ask(partial(self.manager.installed, at_start=True))

    def _queued(self) -> int:
        return self._ask(partial(self.owner.poll_status, 10)).queue_remaining

    def _files(self, kind: str) -> frozenset[str]:
        names = set[str]()
        for one in kinds_of(kind):
            try:
                names.update(name.replace("\\", "/") for name in self.owner.get_models(one))
            except (NotFound, NotSupported):
                continue
        return frozenset(names)

    # -- acting --------------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> None:
        total = len(plan.packs) + len(plan.models) + plan.restart
        done = 0
        for pack in plan.packs:
            if pack.action != "restart":
                self.on_progress(ProvideStep(pack.action, pack.id, done, total))
                self._install(pack)
            done += 1
        for model in plan.models:
            self.on_progress(ProvideStep("download", model.name, done, total))
            self._download(model)
            done += 1
        new = [pack for pack in plan.packs if self.tried.get(_key(pack)) is None]
        if not new:
            return
        self._wait_for_others()
        if self._is_restarted(new) or self._has_grown(plan):
            for pack in new:  # the next plan has what lacks then, and what a restart loses
                self.tried.pop(_key(pack), None)
            return
        self.on_progress(ProvideStep("restart", "", done, total))
        self._restart(new)

    def _is_restarted(self, packs: Iterable[PlannedPack]) -> bool:
        """Return whether somebody else has restarted the server since packs were installed."""
        at_start = self._at_start()
        return all(is_loaded(pack.id, at_start) for pack in packs)

    def _has_grown(self, plan: Plan) -> bool:
        """Return whether a restart loses more prompts than the plan says."""
        return self._queued() > plan.queued

    def _install(self, pack: PlannedPack) -> None:
        work = self.manager.enable if pack.action == "enable" else self.manager.install
        failed = self._try(pack.id, partial(work, pack.id))
        if failed is not None and failed.cause == "failed":
            text = f"{failed.message}; if you trust the pack, install it on the server by hand"
            failed = attrs.evolve(failed, message=text)
        self.tried[_key(pack)] = failed

    def _download(self, model: PlannedModel) -> None:
        work = partial(self.manager.install_model, model.url, model.folder, model.name)
        failed = self._try(model.name, work)
        if failed is not None and failed.cause == "failed":
            text = (
                f"{failed.message}; if {model.host} asks for a login or for consent to a licence, "
                f"or the server cannot reach it, download {model.url} yourself, and copy it to "
                f"models/{model.folder}"
            )
            failed = attrs.evolve(failed, message=text)
        self.tried[_key(model)] = failed
        for node_id, name in model.places if failed is None else ():
            if name:
                self.workflow[node_id][name] = model.value

    def _try(self, about: str, work: Callable[[], Task]) -> Obstacle | None:
        """Have the Manager do work; return why it did not, or None if it did."""
        left = self._left(f"{about} was not begun")
        try:
            work().result(left)
        except (ManagerRefused, TaskFailed, NotFound) as exc:
            cause: Literal["refused", "failed"]
            cause = "refused" if isinstance(exc, ManagerRefused) else "failed"
            return Obstacle(cause, about, str(exc))
        except ApiError as exc:
            if isinstance(exc, AuthenticationError) or exc.retryable:
                raise
            return Obstacle("failed", about, str(exc))
        return None

    def _restart(self, packs: Iterable[PlannedPack]) -> None:
        left = self._left("the server was not restarted")
        refused = None
        try:
            self.manager.reboot(_RESTART if left is None else left)
        except ManagerRefused as exc:
            text = f"{exc}; or restart the server by hand: the packs are installed"
            refused = Obstacle("refused", "restart", text)
        except TaskFailed as exc:
            text = f"{exc}: restart it by hand, as the packs are installed"
            refused = Obstacle("failed", "restart", text)
        self.tried.update({_key(pack): refused for pack in packs})


def _key(one: PlannedPack | PlannedModel) -> str:
    """Return by what a pack or a model is known to have been tried."""
    if isinstance(one, PlannedModel):
        return f"{one.folder}/{one.name}: {one.url}"
    return (folder_of(one.id) if "://" in one.id else one.id).casefold()


def _still_missing(one: PlannedPack | PlannedModel) -> Obstacle:
    """Return the sentence for what was installed, and is still missing."""
    if isinstance(one, PlannedModel):
        text = (
            f"{one.name} was downloaded to models/{one.folder}, but the server does not offer it "
            "to the node: restart the server, or check whether the folder is the right one"
        )
        return Obstacle("still_missing", one.name, text)
    text = f"the pack {one.id} was installed, but the server still lacks {', '.join(one.classes)}"
    return Obstacle("still_missing", one.id, text)


def _agrees(plan: Plan, yes: Consent) -> bool:
    """Return whether the user wants a plan; without a function, print it, and ask."""
    if callable(yes):
        return yes(plan)
    sys.stdout.write(f"{plan}\n")
    if yes:
        return True
    if not (is_notebook() or sys.stdin.isatty()):
        sys.stdout.write("nothing was installed: there is no terminal to ask in; give yes=True\n")
        return False
    return input("Shall the server get this? [y/N] ").strip().lower() in ("y", "yes")


def provide(
    owner: Routes,
    parts: Parts,
    workflow: Workflow,
    *,
    yes: Consent = False,
    on_progress: Callable[[ProvideStep], object] | None = None,
    timeout: float | None = None,
) -> Plan:
    """Provide what a workflow lacks; see :meth:`Workflow.provide`."""
    deadline = Deadline.after(timeout)
    told = on_progress or (lambda step: None)
    return Providing(owner, parts, workflow, told, deadline).run(yes)
