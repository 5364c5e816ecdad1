"""The queue of prompts, the history of those that have ended, and the executor.

The executor runs prompts one after the other in one thread, as ComfyUI does.  Nodes are classes
that follow ComfyUI's V1 conventions, see :mod:`comfy_client.testing.nodes`.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..workflow.validate import is_link
from .active_faults import ActiveFaults
from .node_api import Interrupted, context
from .nodes import (
    Cached,
    DependencyCycleError,
    NodeCache,
    NodeInputError,
    NodeRegistry,
    inputs_in,
    linked_inputs,
)
from .prompt_run import (
    CallResult,
    MessageSink,
    NodeFailure,
    PromptRun,
    merged,
    safe_text,
    shown_input,
)
from .server_clock import ServerClock

#: number, prompt_id, graph, extra_data, outputs to execute, secrets of extra_data.  As in ComfyUI a
#: tuple, which decides the order, and the crash on equal ids.
Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str], dict[str, Any]]

_HISTORY_LIMIT = 10_000


class PromptQueue:
    """The pending, running and ended prompts of a server; any thread may call the methods."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        # Guards everything.  Re-entrant, as `changed` asks for remaining().
        self._news = threading.Condition(threading.RLock())
        self._pending: list[Item] = []
        self._running: Item | None = None
        self._history: dict[str, Any] = {}
        self._flags: dict[str, Any] = {}
        self._closed = False

    def put(self, item: Item) -> None:
        """Add a prompt; if its number and id are taken, raise TypeError but add it nevertheless."""
        with self._news:
            heapq.heappush(self._pending, item)
            self._changed()
            self._news.notify()

    def get(self, starting: Callable[[], object] = bool) -> Item | None:
        """Wait for the next prompt, mark it as running and return it.

        ``starting`` is called just before anybody can see that it runs.
        Return None if a flag is set while no prompt is pending, or the queue is closed.
        """
        with self._news:
            self._news.wait_for(lambda: self._pending or self._flags or self._closed)
            if self._closed or not self._pending:
                return None
            item = heapq.heappop(self._pending)
            starting()
            # The executor changes its copy; queue and history show what was sent.
            self._running = copy.deepcopy(item)
            self._changed()
            return item

    def done(self, result: dict[str, Any] | None) -> None:
        """End the running prompt; without a result, history does not record it."""
        with self._news:
            item, self._running = self._running, None
            if item is None:
                return
            if result is not None:
                self._remember(item, result)
            self._changed()

    def _remember(self, item: Item, result: dict[str, Any]) -> None:
        if len(self._history) > _HISTORY_LIMIT:
            del self._history[next(iter(self._history))]
        self._history[item[1]] = {"prompt": item[:5], **result}

    def settle(self, prompt_id: str, result: dict[str, Any]) -> None:
        """End a prompt with a result, whether it is running, pending or unknown."""
        with self._news:
            running = [self._running] if self._running else []
            known = (item for item in (*running, *self._pending) if item[1] == prompt_id)
            item: Item = next(known, (0, prompt_id, {}, {}, [], {}))
            if item is self._running:
                self._running = None
            elif item in self._pending:
                self._pending.remove(item)
                heapq.heapify(self._pending)
            self._remember(item, result)
            self._changed()

    def lose(self) -> str | None:
        """Drop all prompts without a message; return the id of the running one, or None."""
        with self._news:
            self._pending.clear()
            item, self._running = self._running, None
            return item[1] if item else None

    def shown(self) -> dict[str, list[Any]]:
        """Return the answer to ``GET /queue``."""
        with self._news:
            return {
                "queue_running": [self._running[:5]] if self._running else [],
                "queue_pending": [item[:5] for item in self._pending],
            }

    @property
    def running_id(self) -> str | None:
        """The id of the running prompt, or None."""
        with self._news:
            return self._running[1] if self._running else None

    def remaining(self) -> int:
        """Return the number of pending and running prompts."""
        with self._news:
            return len(self._pending) + (self._running is not None)

    def is_waiting(self) -> bool:
        """Return whether a prompt is still to run."""
        with self._news:
            return bool(self._pending) and not self._closed

    def clear(self) -> None:
        """Drop all pending prompts."""
        with self._news:
            self._pending.clear()
            self._changed()

    def delete(self, prompt_id: Any) -> bool:
        """Drop the first pending prompt with this id; return False if there is none."""
        with self._news:
            for index, item in enumerate(self._pending):
                if item[1] == prompt_id:
                    del self._pending[index]
                    heapq.heapify(self._pending)
                    if not self._pending:
                        self._changed()  # clients get two messages for the last one
                    self._changed()
                    return True
        return False

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """Return the history, or a part of it, by prompt id; the oldest prompt comes first.

        A part has up to ``max_items`` prompts, from ``offset`` on or, without that, the last ones.
        """
        with self._news:
            if offset < 0 and max_items is not None:
                offset = len(self._history) - max_items
            end = None if max_items is None else max(offset, 0) + max(max_items, 1)
            return dict(list(self._history.items())[max(offset, 0) : end])

    def entry(self, prompt_id: str) -> dict[str, Any]:
        """Return a dict with one prompt's history entry by its id, or an empty dict."""
        with self._news:
            found = self._history.get(prompt_id)
            return {} if found is None else {prompt_id: found}

    def forget(self, prompt_id: Any = None) -> None:
        """Drop one prompt from the history, or all prompts if ``prompt_id`` is None."""
        with self._news:
            if prompt_id is None:
                self._history.clear()
            else:
                self._history.pop(prompt_id, None)

    def flag(self, name: str, value: Any) -> None:
        """Set a flag for the worker, which reads it while no prompt is running."""
        with self._news:
            self._flags[name] = value
            self._news.notify()

    def take_flags(self) -> dict[str, Any]:
        """Return the flags that :meth:`flag` has set, and clear them."""
        with self._news:
            flags, self._flags = self._flags, {}
            return flags

    def close(self) -> None:
        """Stop handing out prompts, and wake the worker if it is waiting for one."""
        with self._news:
            self._closed = True
            self._news.notify()

    @property
    def closed(self) -> bool:
        """Whether the queue was closed."""
        return self._closed


class ExecutionHooks(Protocol):
    """Hooks into the execution of prompts, called in the worker's thread."""

    def play_script(self, item: Item) -> bool:
        """Play a script in place of a prompt; return False if there is no script."""

    def before_step(self) -> None:
        """Wait while no node may start or continue."""

    def before_end(self, prompt_id: str, status: str) -> bool:
        """Wait while the end of a prompt must not be reported yet.

        Return whether to add the prompt to the history.
        """


class Executor:
    """The executor of prompts, which caches the outputs of the last prompt's nodes."""

    hooks: ExecutionHooks  #: Set by the owner before :meth:`work`.

    def __init__(
        self,
        nodes: NodeRegistry,
        queue: PromptQueue,
        faults: ActiveFaults,
        sink: MessageSink,
        clock: ServerClock,
        *,
        newer: bool,
    ) -> None:
        self.nodes = nodes
        # Older servers keep cached outputs of a prompt without client out of the history, record
        # outputs of output nodes only, and send all progress.
        self._newer = newer
        self.sink = sink
        #: The client of the running or last prompt.
        self.client_id: str | None = None
        self._run: PromptRun | None = None
        self._queue = queue
        self._faults = faults
        self._clock = clock
        self._interrupted = threading.Event()
        self._replaced = nodes.replaced
        self._ended = threading.Event()
        self.reset()

    @property
    def node_id(self) -> str | None:
        """The id of the running node as reported to the client, or None."""
        run = self._run
        return run.shown_id if run else None

    def reset(self) -> None:
        """Drop all cached outputs and node objects."""
        self._store = NodeCache()

    def interrupt(self) -> None:
        """Make the running prompt stop at its next step."""
        self._interrupted.set()

    def check_interrupted(self) -> None:
        """Raise :class:`Interrupted` once after an interrupt, and always while the server stops."""
        self.hooks.before_step()
        if self._interrupted.is_set() or self._queue.closed:
            self._interrupted.clear()
            raise Interrupted

    def _is_ending(self) -> bool:
        return self._interrupted.is_set() or self._queue.closed

    def work(self) -> None:
        """Run queued prompts until the queue is closed."""
        try:
            self._work()
        finally:
            self._ended.set()

    def has_ended(self, timeout: float) -> bool:
        """Return whether :meth:`work` ends within ``timeout`` seconds, and wait for that."""
        return self._ended.wait(timeout)

    def _work(self) -> None:
        while not self._queue.closed:
            item = self._queue.get(self._begin)
            try:
                if item is not None and not self.hooks.play_script(item):
                    self._take(item)
            except BaseException as exc:  # noqa: BLE001  the next prompt must run
                self.sink.keep_error(exc)
                self._queue.done(None)
            if self._queue.take_flags().get("free_memory"):
                self.reset()
            self._clock.end()

    def _begin(self) -> None:
        """Clear interrupts before a prompt is seen to run: later ones are not lost."""
        self._interrupted.clear()
        self._clock.begin()

    def _take(self, item: Item) -> None:
        start = time.perf_counter()
        self._clock.wait(self._clock.lead, self._is_ending)
        self._end(item[1], self._execute(item))
        seconds = time.perf_counter() - start
        self.sink.log(f"Prompt executed in {seconds:.2f} seconds")

    def _end(self, prompt_id: str, result: dict[str, Any]) -> None:
        keep = self.hooks.before_end(prompt_id, result["status"].get("status_str"))
        self._queue.done(result if keep else None)
        if self.client_id is not None:
            self.sink.send("executing", {"node": None, "prompt_id": prompt_id}, self.client_id)

    def _execute(self, item: Item) -> dict[str, Any]:
        """Run one prompt; return its history entry without the prompt itself."""
        _, prompt_id, graph, extra_data, outputs, secrets = item
        if self._replaced != self.nodes.replaced:
            self._replaced = self.nodes.replaced
            self.reset()
        self.client_id = extra_data.get("client_id")
        run = self._run = PromptRun(
            self.nodes,
            self._faults,
            self.sink,
            self.check_interrupted,
            prompt_id,
            graph,
            {**extra_data, **secrets},
            self.client_id,
            self._clock,
            self._store,
            self._newer,
        )
        token = context.set(run)
        try:
            succeeded = self._run_nodes(run, outputs)
        finally:
            context.reset(token)
            self._run = None
        return run.record(succeeded)

    def _run_nodes(self, run: PromptRun, outputs: Sequence[str]) -> bool:
        """Run a prompt's nodes and report its end; return whether history calls it a success."""
        run.report("execution_start", {"prompt_id": run.prompt_id})
        executed: set[str] = set()
        try:
            self._steps(run, outputs, executed)
        except NodeFailure as exc:
            failure = exc
        except BaseException as exc:  # noqa: BLE001  a class whose methods fail
            failure = NodeFailure(next(iter(run.prompt), ""), exc, {})
        else:
            self._send_success(run)
            return True
        if not isinstance(failure.error, Exception):  # such as a test's own pytest.fail()
            self.sink.keep_error(failure.error)
        message: dict[str, Any] = {
            "prompt_id": run.prompt_id,
            "node_id": failure.node_id,
            "node_type": run.prompt.get(failure.node_id, {}).get("class_type"),
            "executed": list(executed),
        }
        if isinstance(failure.error, Interrupted):
            self.sink.log("Processing interrupted")
            run.report("execution_interrupted", message, to_all=True)
        else:
            self.sink.log(f"!!! Exception during processing !!! {safe_text(failure.error)}")
            run.report("execution_error", {**message, **run.details(failure)})
        # As on the server, history calls a dependency cycle a success.
        return isinstance(failure.error, DependencyCycleError)

    def _send_success(self, run: PromptRun) -> None:
        self.hooks.before_step()  # also for a prompt without a node to run
        if not self._queue.closed:
            run.report("execution_success", {"prompt_id": run.prompt_id})

    def _steps(self, run: PromptRun, outputs: Sequence[str], executed: set[str]) -> None:
        """Run the output nodes of a prompt and all nodes they depend on, except cached ones."""
        self._store.retain(run.graph, run.signed(run.prompt))
        run.known = list(self._store.node_ids())
        cached = [node_id for node_id in run.prompt if run.cached(node_id)]
        run.report("execution_cached", {"nodes": cached, "prompt_id": run.prompt_id})
        plan = ExecutionList(run)
        for node_id in outputs:
            plan.add(node_id)
        while plan.pending:
            node_id = plan.pick()
            if self._step(run, plan, node_id, executed):
                plan.complete(node_id)
        for node_id in cached if self._newer else ():
            if node_id not in run.ui and run.is_intermediate(node_id):
                self._send_cached(run, node_id, run.cached(node_id))

    def _step(self, run: PromptRun, plan: ExecutionList, node_id: str, executed: set[str]) -> bool:
        """Run one node or use its cached output; return False if it must wait for other nodes."""
        cached = run.cached(node_id)
        if cached is not None:
            self._send_cached(run, node_id, cached)
            run.finish(node_id)
            return True
        run.node_id = node_id
        inputs: dict[str, list[Any]] = {}
        try:
            if node_id in run.expanded:
                outputs = run.resolved(node_id)
            else:
                self._clock.stand(self.check_interrupted)
                run.start(node_id)
                given, missing = run.inputs(node_id, plan.sources[node_id])
                inputs |= given
                run.send_executing(node_id)
                node = run.object(node_id)
                wanted = run.wanted(node, inputs, missing)
                if wanted:
                    for name in wanted:
                        plan.need(node_id, name)
                    return False
                ui, results = run.call(node, inputs, executed)
                if ui:
                    run.show(node_id, ui)
                if any(expansion is not None for expansion, _ in results):
                    self._expand(run, plan, node_id, results)
                    return False
                outputs = merged([result for _, result in results], node) if results else []
            run.keep(node_id, outputs)
        except BaseException as exc:  # whatever a node raises ends the prompt only
            texts = {
                name: [shown_input(value) for value in values] for name, values in inputs.items()
            }
            raise NodeFailure(run.graph.get_real_node_id(node_id), exc, texts) from exc
        run.finish(node_id)
        executed.add(node_id)
        return True

    def _send_cached(self, run: PromptRun, node_id: str, cached: Cached | None) -> None:
        """Report the cached output of a node to the client and to the history."""
        ui = cached.ui if cached else None
        if run.client_id is not None:
            run.send_executed(node_id, (ui or {}).get("output"))
        if ui is not None and (self._newer or run.client_id is not None):
            run.ui[node_id] = ui

    def _expand(
        self, run: PromptRun, plan: ExecutionList, node_id: str, results: list[CallResult]
    ) -> None:
        """Add the nodes that a node expanded into to the graph; they provide its outputs."""
        added: list[str] = []
        sources: list[str] = []
        for expansion, result in results:
            if expansion is not None:
                for inner_id, inner in expansion.items():
                    run.graph.add(inner_id, inner, node_id)
                    added.append(inner_id)
                sources += [result[i][0] for i in range(len(result)) if is_link(result[i])]
        outputs = [inner_id for inner_id in added if run.is_output(inner_id)]
        run.inner_store(node_id).retain(run.graph, run.signed(added))
        for inner_id in outputs:
            plan.add(inner_id)
        for source in sources:
            plan.link(source, node_id)
        run.expanded[node_id] = results


# -- the order of nodes ------------------------------------------------------------------


class ExecutionList:
    """The nodes still to run; of those that are ready, one near an output runs next."""

    def __init__(self, run: PromptRun) -> None:
        self._run = run
        self.pending: dict[str, set[str]] = {}  # the sources that each node still waits for
        #: The sources of each node; of lazy inputs, only requested ones.
        self.sources: defaultdict[str, set[str]] = defaultdict(set)
        self._behind: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._places: dict[str, int] = {}  # of pending nodes, in the order of their addition
        self._numbers = itertools.count()
        self._before_output: dict[str, bool] = {}  # while nothing is added
        self._ready: list[tuple[int, int, str]] = []  # a heap of nodes by rank and place
        self._has_grown = True

    def add(self, node_id: str) -> None:
        """Add a node and, recursively, the uncached sources of its inputs that are not lazy."""
        waiting = [node_id]
        links = []
        while waiting:
            node_id = waiting.pop()
            if node_id in self.pending:
                continue
            self.pending[node_id] = set()
            self._places[node_id] = next(self._numbers)
            self._has_grown = True
            for name, source in linked_inputs(self._run.graph, node_id):
                if not self._run.config(node_id, name).get("lazy"):
                    if not self._run.cached(source):
                        waiting.append(source)
                    links.append((source, node_id))
        for source, target in links:
            self.link(source, target)

    def link(self, source: str, target: str) -> None:
        """Make the node ``target`` use ``source``, and wait for it unless it is cached."""
        if not self._run.cached(source):
            self.add(source)
            self._behind[source][target] = None
            self._has_grown = True
            self.pending[target].add(source)
        self.sources[target].add(source)

    def need(self, node_id: str, name: str) -> None:
        """Make a node wait for the source of a lazy input; raise if the input has no source."""
        inputs = inputs_in(self._run.graph.get_node(node_id))
        asks = f"Node {node_id} says it needs input {name}, but"
        if name not in inputs:
            raise NodeInputError(f"{asks} there is no input to that node at all")
        if not is_link(inputs[name]):
            raise NodeInputError(f"{asks} that value is a constant")
        self.link(inputs[name][0], node_id)

    def pick(self) -> str:
        """Return the id of the node to run next; raise NodeFailure if all wait for each other."""
        if self._has_grown:
            self._has_grown = False
            self._before_output.clear()
            ready = [node_id for node_id, needed in self.pending.items() if not needed]
            self._ready = sorted(map(self._entry, ready))
        while self._ready:
            node_id = self._ready[0][2]
            if self.pending.get(node_id, True):
                heapq.heappop(self._ready)  # it has run, or waits again
            else:
                return node_id
        raise self._cycle()

    def _entry(self, node_id: str) -> tuple[int, int, str]:
        return self._rank(node_id), self._places[node_id], node_id

    def _rank(self, node_id: str) -> int:
        """Return 0 for an output, 1 for a node before one, 2 before that, and 3 for others."""
        if self._run.goes_first(node_id):
            return 0
        if self._is_before_output(node_id):
            return 1
        return 2 if any(map(self._is_before_output, list(self._behind[node_id]))) else 3

    def _is_before_output(self, node_id: str) -> bool:
        if node_id not in self._before_output:
            self._before_output[node_id] = any(map(self._run.is_output, self._behind[node_id]))
        return self._before_output[node_id]

    def _cycle(self) -> NodeFailure:
        display_id = self._run.graph.get_display_node_id
        blamed = next(iter(self.pending))
        # Nodes displayed as others come from an expansion: the rest were validated.
        blamed = next((display_id(n) for n in self.pending if display_id(n) != n), blamed)
        return NodeFailure(blamed, DependencyCycleError("Dependency cycle detected"), [])

    def complete(self, node_id: str) -> None:
        """Remove a node that has run, so that no other node waits for it."""
        del self.pending[node_id]
        for other in self._behind.pop(node_id, ()):
            self.pending[other].discard(node_id)
            if not self.pending[other] and not self._has_grown:
                heapq.heappush(self._ready, self._entry(other))
