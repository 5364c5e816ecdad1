"""The prompts of a client, from submission to result.

The modules are listed from the bottom up.

Modules:
    names: Names of local files by a template.
    output: Outputs: files on the server, and images that came over the socket.
    result: The outputs of a prompt.
    gallery: Results and outputs as HTML.
    outcomes: The event and the error for each way in which a prompt ends.  Pure.
    progress: The completed fraction of a prompt, and the time that is left.
    state: The state of a prompt and of the queue: what evidence makes of it.  Pure.
    prompt: A prompt that the tracker follows: its events, its end, and who waits for it.
    queue_monitor: The server's queue, requested rarely, and the check for a deaf socket.
    tracker: The registry of prompts, its lock, and the counters; ends each prompt once.
    stopping: Requests to stop or remove prompts, and their repetition.
    lookup: The search for a prompt in queue and history, by its id or by the client's mark.
    poller: All requests about prompts, and the thread that polls if events are missing.
    describe: The progress of a prompt, in numbers and in words.
    handle: :class:`JobHandle`, which does the work of a job.
    wait_bars: Waits on the screen: a bar for one job or for many.
    job: :class:`Job`, a thin future, and the callbacks of a prompt.
    submit: Submission, exactly once, and attaching to a prompt.
    execute: The parts of a client, and the work of its methods for workflows and jobs.
"""
