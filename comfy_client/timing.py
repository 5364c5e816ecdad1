"""All intervals and timeouts of a client; a subclass of the client may set its own."""

from __future__ import annotations

import attrs


@attrs.frozen(eq=False, repr=False)
class Timing:
    """The intervals and timeouts of a client, in seconds except where noted.

    Attributes:
        dial: How long an attempt to connect the socket may take, from name lookup to the end of
            the handshake; the same again for the first message.
        ping: How long the socket may be silent before a ping is sent.
        dead: How long the socket may be silent before the connection counts as lost.
        poll: The pause between HTTP requests for the queue while there is no socket.
        pause: The longest first pause between attempts to connect; it doubles with each one.
        cap: The longest pause between attempts to connect.
        init: The first pause between attempts of ``init``; it grows up to a second.
        settle: How long a submission waits for the socket.
        silence: How long a job may be without news before HTTP is asked.
        silence_cap: The longest pause between two questions about a job.
        job_poll: The first pause between questions about a job while there is no socket.
        job_poll_cap: The longest pause between questions about a job while there is no socket.
        history: How long the history may take to show an end that an event has announced.
        lost: The pause between the two checks that make a job lost.
        pictures: How long pictures may still come on the socket after the prompt is in the history.
        deaf: How soon the socket must report a submission; otherwise it counts as deaf.
        redial: The shortest pause between two reconnects because a socket is deaf.
        mute: How long no news may come, while HTTP is refused, before the socket may be deaf.
        give_up: How long no news may come, while HTTP is refused, before a prompt may be lost.
        question: How long the server may be silent in a request about jobs.
        question_pause: The first pause after a failed question; it doubles up to ``silence_cap``.
        link: The shortest pause between questions when the socket is connected or lost repeatedly.
        record: How long after the end event the server may take to write the history record.
        follow: The longest pause between questions for the queue while a job is running.
        queue: How long an answer about the queue is used if no event announces a change.
        slow_queue: The processor time from which a request for the queue counts as slow.
        slow_queue_rest: The pause after a slow queue request, in multiples of its processor time.
        look_up: How long an unanswered submission is searched for.
        look_up_sure: For how long the server must keep answering that it has no such prompt.
        look_up_pause: The first pause between questions for such a submission to a hosted server.
        look_up_cap: The longest pause between these questions.
        linger: How long the polling thread stays when there are no jobs.
        flush: How long a result waits for slow receivers.
        stop_again: The shortest pause before a running prompt is interrupted again.
        cancel_timeout: How long Ctrl-C, ``map`` and ``sweep`` may take to cancel prompts.
        cancel_silent: How long ``map`` and ``sweep`` may take for that if the server is silent.
        throttled: How long a submission without a timeout waits while the server answers 429.
        retry: The first pause of ``map`` and ``sweep`` while the server is away; it grows.
        retry_cap: The longest pause of ``map`` and ``sweep`` while the server is away.
        row: How long a busy server may take to say how long a row of ``sweep`` ran.
        rows: How long a busy server may take to say how long all rows of a ``sweep`` ran.
        watch: How long ``doctor()`` watches a queue that is not empty.
        stale: How long an idle HTTP connection is trusted with a POST, which cannot be sent again.
            After that, a NAT or firewall may have dropped it silently.
        freed: How long the second attempt of a run waits for the server to free its memory.
        resume: For how long after its last byte an interrupted download is retried.
        hosted_poll: The first pause between questions about a job of a hosted server; it grows by
            half with each one.
        hosted_poll_cap: The longest of these pauses.
        hosted_poll_late: The longest of these pauses once a job is older than ``hosted_late``.
        hosted_late: The age from which ``hosted_poll_late`` applies.
        hosted_share: By how much each further job lengthens the shortest of these pauses.
        hosted_refused: The shortest of these pauses after a refusal (401, 402, 403).
        hosted_new: How long a hosted server may not know a job after the first question about it.
        hosted_gone: For how long a job must have expired or be missing until that is believed.
        hosted_stop: How long a cancelled job of a hosted server may take to end.
        hosted_goes_on: How long after its cancel the steps of a job show that it goes on.
        stream: The age from which a job of a hosted server gets an event stream.
        stream_pause: The first pause before its stream is opened again; it doubles with each one.
        stream_cap: The longest of these pauses.
        task: The pause between questions about tasks of ComfyUI-Manager; an event ends it.
        task_worker: How long such a task may wait without a worker until one is started.
        task_forgotten: How long the Manager's queue must be empty until a task without a result
            counts as forgotten.
        task_routes: How long the routes of the Manager may be missing, as after a restart, or have
            a page, 429 or 500 in place of an answer.
        reboot: How long a server may go on answering after it was asked to restart.
        show: How long a run, or the transfer of a large file, lasts before its progress is shown.
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
    look_up_pause: float = 0.1
    look_up_cap: float = 2.0
    linger: float = 10.0
    flush: float = 5.0
    stop_again: float = 0.5
    cancel_timeout: float = 5.0
    cancel_silent: float = 1.0
    throttled: float = 60.0
    retry: float = 0.5
    retry_cap: float = 5.0
    row: float = 1.0
    rows: float = 5.0
    watch: float = 3.0
    stale: float = 20.0
    freed: float = 3.0
    resume: float = 30.0
    hosted_poll: float = 0.001
    hosted_poll_cap: float = 1.0
    hosted_poll_late: float = 2.0
    hosted_late: float = 60.0
    hosted_share: float = 0.02
    hosted_refused: float = 0.5
    hosted_new: float = 5.0
    hosted_gone: float = 2.0
    hosted_stop: float = 10.0
    hosted_goes_on: float = 1.0
    stream: float = 0.15
    stream_pause: float = 0.5
    stream_cap: float = 10.0
    task: float = 0.5
    task_worker: float = 3.0
    task_forgotten: float = 3.0
    task_routes: float = 120.0
    reboot: float = 10.0
    show: float = 0.4

    def __repr__(self) -> str:
        """Show the times that differ from the defaults."""
        return describe(self)


def describe(times: attrs.AttrsInstance) -> str:
    """Return the class of an object, and its fields that differ from the defaults."""
    fields = ((field, getattr(times, field.name)) for field in attrs.fields(type(times)))
    changed = (f"{field.name}={time!r}" for field, time in fields if time != field.default)
    return f"{type(times).__name__}({', '.join(changed)})"
