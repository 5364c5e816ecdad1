"""Mutants of the embedded server, ``comfy_client.testing``: it must do as ComfyUI does."""

from __future__ import annotations

from .mutant import Mutant

SERVER = (
    Mutant(
        "F01",
        "testing/active_faults.py",
        "if one.times is None or one.hits < one.times]",
        "if one.times is None or one.hits <= one.times]",
        "server/test_faults_http.py",
        "a fault happens once more than it may",
    ),
    Mutant(
        "F04",
        "testing/exchange.py",
        "            if not fault.active:\n                continue\n",
        "",
        "server/test_faults_http.py",
        "two requests at once both meet the last time of a fault",
    ),
    Mutant(
        "Z01",
        "testing/prompt_queue.py",
        "        self._queue.done(result if keep else None)\n"
        "        if self.client_id is not None:\n"
        '            self.sink.send("executing", {"node": None, "prompt_id": prompt_id}, '
        "self.client_id)\n",
        "        if self.client_id is not None:\n"
        '            self.sink.send("executing", {"node": None, "prompt_id": prompt_id}, '
        "self.client_id)\n"
        "        self._queue.done(result if keep else None)\n",
        "contract/test_event_order.py",
        "the end is told before history has it",
    ),
    Mutant(
        "Z02",
        "testing/prompt_routes.py",
        "if not prompt_id or prompt_id == state.queue.running_id:",
        "if True:",
        "behaviour/test_cancel.py",
        "an interrupt by id stops whatever runs",
    ),
    Mutant(
        "Z03",
        "testing/files.py",
        "is_known = path.read_bytes() == data",
        "is_known = False",
        "contract/test_routes.py",
        "an upload of the same content gets a new name",
    ),
    Mutant(
        "Z04",
        "testing/files.py",
        "disposition, headers = f'filename=",
        "disposition, headers = f'attachment; filename=",
        "server/test_newer_versions.py",
        "pictures are saved by a browser rather than shown",
    ),
    Mutant(
        "Z05",
        "testing/prompt_queue.py",
        "offset = len(self._history) - max_items",
        "offset = 0",
        "contract/test_versions.py",
        "a history of some entries has the oldest ones",
    ),
    Mutant(
        "Z06",
        "testing/prompt_queue.py",
        '"queue_pending": [item[:5] for item in self._pending],',
        '"queue_pending": [item[:5] for item in sorted(self._pending)],',
        "server/test_routes.py",
        "the queue shows its prompts in another order than ComfyUI's heap",
    ),
    Mutant(
        "Z07",
        "testing/prompt_routes.py",
        "        number = -number\n",
        "        number = 0.0\n",
        "contract/test_runs.py",
        "a prompt at the front has another number",
    ),
    Mutant(
        "Z08",
        "testing/server_state.py",
        "        self._by_id.pop(client_id, None)\n        self._flags",
        "        self._flags",
        "server/test_routes.py",
        "the end of an older socket does not make the newer one deaf",
    ),
    Mutant(
        "Z09",
        "testing/files.py",
        'raise _Refusal(409, "File already exists")',
        'raise _Refusal(400, "File already exists")',
        "contract/test_versions.py",
        "a user's file that exists is refused in other words",
    ),
    Mutant(
        "Z10",
        "testing/prompt_queue.py",
        'run.report("execution_interrupted", message, to_all=True)',
        'run.report("execution_interrupted", message)',
        "contract/test_event_order.py",
        "other clients do not hear that a prompt was interrupted",
    ),
    Mutant(
        "Z11",
        "testing/prompt_queue.py",
        'run.report("execution_cached", {"nodes": cached, "prompt_id": run.prompt_id})',
        'run.report("execution_cached", {"nodes": [], "prompt_id": run.prompt_id})',
        "contract/test_event_order.py",
        "no node is said to come from the cache",
    ),
    Mutant(
        "Z12",
        "testing/prompt_queue.py",
        "                    if not self._pending:\n"
        "                        self._changed()  # clients get two messages for the last one\n",
        "",
        "contract/test_event_order.py",
        "one status comes where ComfyUI sends two",
    ),
    # -- chosen from the code alone -----------------------------------------------------
    Mutant(
        "N59",
        "testing/prompt_queue.py",
        "        if len(self._history) > _HISTORY_LIMIT:\n",
        "        if False:\n",
        "unit/test_prompt_queue.py",
        "the history grows without end",
    ),
    Mutant(
        "N60",
        "testing/prompt_queue.py",
        "self._running = copy.deepcopy(item)",
        "self._running = item",
        "unit/test_prompt_queue.py",
        "queue and history show a prompt as the executor changed it",
    ),
)
