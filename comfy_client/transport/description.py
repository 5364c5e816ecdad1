"""A client's description for the doctor."""

from __future__ import annotations

import attrs


@attrs.frozen(eq=False, repr=False)
class Description:
    """Description of what a client sends, and where to, without secrets.

    Attributes:
        url: The server.
        user: The user that requests name; ``None`` for none.
        credentials: The kind of credentials; ``None`` for none.
        sent: Names of what went along to prove who we are: headers, ``?parameters=``, and what a
            given Session adds.
        sends_origin: Whether a header says ``Origin``, which a ComfyUI compares with its host.
        has_api_prefix: Whether routes are below ``/api``; ``None`` if that is not known yet.
    """

    url: str
    user: str | None
    credentials: str | None
    sent: tuple[str, ...]
    sends_origin: bool
    has_api_prefix: bool | None
