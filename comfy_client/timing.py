"""All times that a client waits for, in one place: a subclass of the client may set its own."""

from __future__ import annotations

import attrs


@attrs.frozen
class Timing:
    """The times that a client waits for, all in seconds.

    Attributes:
        dial: How long an attempt may take, from name lookup to the end of the handshake; the same
            again for the first message.
        ping: How long the socket may be silent before a ping is sent.
        dead: How long the socket may be silent before the connection counts as lost.
        poll: The pause between requests over HTTP while there is no socket.
        pause: The longest first pause between attempts to connect; it doubles with each one.
        cap: The longest pause between attempts to connect.
        watch: How long ``doctor()`` watches a queue that is not empty.
    """

    dial: float = 10.0
    ping: float = 8.0
    dead: float = 90.0
    poll: float = 2.0
    pause: float = 0.5
    cap: float = 30.0
    watch: float = 3.0
