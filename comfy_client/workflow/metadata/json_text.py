"""JSON from an untrusted file, decoded within limits."""

from __future__ import annotations

import json
from typing import Any, Final

from ...errors import WorkflowError
from ...values import size_decoded

#: The most bytes of memory for one decoded text.
MAX_DECODED: Final = 320 << 20
#: The message for content of an unknown kind.
NEITHER: Final = "neither JSON nor a picture, video, audio or 3D file that contains a workflow"


def decoded(text: str | bytes | memoryview, where: str) -> Any:
    """Decode a JSON text; NaN and Infinity are allowed, as on the server.

    Raises:
        WorkflowError: It is not JSON (with line and column), nested too deeply or too large.
    """
    text = bytes(text) if isinstance(text, memoryview) else text
    needed = size_decoded(text)
    if needed > MAX_DECODED:
        raise WorkflowError(f"{where}: would take {needed >> 20} MiB of memory, too much to read")
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise WorkflowError(
            f"{where}, line {exc.lineno}, column {exc.colno}: not valid JSON: {exc.msg}"
        ) from None
    except UnicodeDecodeError:
        raise WorkflowError(f"{where}: {NEITHER}") from None
    except RecursionError:
        raise WorkflowError(f"{where}: nested too deeply") from None
    except ValueError as exc:
        raise WorkflowError(f"{where}: cannot be read as JSON: {exc}") from None
