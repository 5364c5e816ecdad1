"""All times that a client waits for; a subclass of the client may set its own."""

from __future__ import annotations

import attrs


@attrs.frozen(eq=False, repr=False)
class Timing:
    """The times of a client, all in seconds.

    Attributes:
        dial: How long an attempt to connect the socket may take, from name lookup to the end of
            the handshake; the same again for the first message.
        ping: How long the socket may be silent before a ping is sent.
        dead: How long the socket may be silent before the connection counts as lost.
        poll: The pause between requests for the queue over HTTP while there is no socket.
        pause: The longest first pause between attempts to connect; it doubles with each one.
        cap: The longest pause between attempts to connect.
        init: The first pause between attempts of ``init``; it grows up to a second.
        settle: How long a submission waits for the socket.
        silence: How long a job may be without news before HTTP is asked.
        silence_cap: The longest pause between two questions about a job.
        job_poll: The first pause between questions about a job while there is no socket.
        job_poll_cap: The longest of these.
        history: How long history may take to show what an event has announced.
        lost: The pause between the two questions that make a job lost.
        pictures: How long pictures of the socket may come after their prompt is in the history.
        deaf: How soon a submission must show on a socket that is not deaf.
        redial: The shortest pause between two reconnects because a socket is deaf.
        mute: After how long without news, while HTTP refuses to say, a socket may be deaf.
        give_up: After how long without news, while HTTP refuses to say, a prompt may be lost.
        question: How long the server may be silent in a request about jobs.
        question_pause: The first pause after a failed question; it doubles up to ``silence_cap``.
        link: The shortest pause between questions because the socket came or went.
        record: How long after the end event the server may take to write its record.
        follow: The longest pause between questions for the queue while a job is running.
        queue: How long the queue, once asked for, is taken to be unchanged if no event says so.
        slow_queue: Processor time that makes a question for the queue a slow one ...
        slow_queue_rest: ... which is not repeated for this many times as long.
        look_up: How long an unanswered submission is searched for.
        look_up_sure: How long a server that answers must not find it.
        linger: How long the thread that asks stays when there are no jobs.
        flush: How long a result waits for slow receivers.
        stop_again: The shortest pause before a prompt that goes on is told again to stop.
        cancel_timeout: How long Ctrl-C, ``map`` and ``sweep`` take to cancel what is not wanted.
        retry: The first pause of ``map`` and ``sweep`` while the server is away; it grows.
        retry_cap: The longest of these pauses.
        row: How long a busy server may take to say how long a row of ``sweep`` ran.
        rows: The same for all rows together, once the sweep is done.
        watch: How long ``doctor()`` watches a queue that is not empty.
        stale: After how long without an answer kept HTTP connections are not trusted with a POST,
            which cannot be sent again: a NAT or firewall may have forgotten them without a word.
        freed: How long a run that is tried again waits for the server to free its memory.
        resume: How long after its last byte a download that was cut is tried again.
        show: How long a run lasts before its progress is shown.
    """

    dial: float = 10.0
    ping: float = 8.0
    dead: float = 90.0
    poll: float = 2.0
    pause: float = 0.5
    cap: float = 30.0
    init: float = 0.1
    settle: float = 5.0
    silence: float = 5.0
    silence_cap: float = 10.0
    job_poll: float = 0.05
    job_poll_cap: float = 2.0
    history: float = 3.0
    lost: float = 2.0
    pictures: float = 600.0
    deaf: float = 3.0
    redial: float = 60.0
    mute: float = 600.0
    give_up: float = 3600.0
    question: float = 5.0
    question_pause: float = 0.5
    link: float = 1.0
    record: float = 1.0
    follow: float = 60.0
    queue: float = 7.0
    slow_queue: float = 0.1
    slow_queue_rest: float = 150.0
    look_up: float = 10.0
    look_up_sure: float = 3.0
    linger: float = 10.0
    flush: float = 5.0
    stop_again: float = 0.5
    cancel_timeout: float = 5.0
    retry: float = 0.5
    retry_cap: float = 5.0
    row: float = 1.0
    rows: float = 5.0
    watch: float = 3.0
    stale: float = 20.0
    freed: float = 3.0
    resume: float = 30.0
    show: float = 0.4

    def __repr__(self) -> str:
        """Show the times that differ from the defaults."""
        times = ((field, getattr(self, field.name)) for field in attrs.fields(type(self)))
        changed = (f"{field.name}={time!r}" for field, time in times if time != field.default)
        return f"{type(self).__name__}({', '.join(changed)})"
