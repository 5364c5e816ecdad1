"""Errors for workflows that ``POST /api/v2/jobs`` refuses.  Imported late."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..errors import ApiError, PromptRejected
from ..transport.http import Http
from ..values import table, text
from ..workflow.explain import explain_rejection, problems_of_rejection

#: The codes of refused workflows.
_CODES: Final = frozenset({"invalid_workflow", "workflow_format_ui", "missing_asset"})
#: Patterns of ComfyUI's messages, and the types of these errors, which Comfy API v2 leaves out.
_TYPES: Final = {
    r"Prompt has no outputs": "prompt_no_outputs",
    r"Prompt outputs failed validation": "prompt_outputs_failed_validation",
    r"Cannot execute because (a )?node .* does not exist": "missing_node_type",
    r"Node '.*' not found": "missing_node_type",
    r"Cannot execute because .* missing the class_type": "missing_node_type",
}


def rejection(http: Http, exc: ApiError, graph: Mapping[str, Any]) -> PromptRejected | None:
    """Return the :class:`PromptRejected` for a refused workflow; None for any other refusal.

    It has the form of ComfyUI's own refusal: ``error`` with a type, and ``node_errors``.
    """
    if exc.status != 422 or exc.reason not in _CODES:
        return None
    envelope = table((table(exc.body) or {}).get("error")) or {}
    details = table(envelope.get("details")) or {}
    message = text(envelope.get("message"), 2000) or ""
    kind = next((type for words, type in _TYPES.items() if re.match(words, message)), exc.reason)
    node_errors = table(details.get("node_errors")) or {}
    error = {"type": kind, "message": message, "details": "", "extra_info": {}}
    body = {"error": error, "node_errors": node_errors}
    words = http.identity.hide(explain_rejection(body, graph))
    missing = details.get("missing_ids")
    if exc.reason == "missing_asset" and isinstance(missing, list):
        ids = [found for each in missing[:20] if (found := text(each, 300))]
        words = f"{words}\nunknown assets: {', '.join(map(repr, ids))}" if ids else words
    return PromptRejected(
        f"the server refused the workflow:\n{words}",
        error=error,
        node_errors=node_errors,
        problems=problems_of_rejection(body, graph, hide=http.identity.hide),
        method=exc.method,
        path=exc.path,
        status=exc.status,
        body=exc.body,
        reason=exc.reason,
    )
