"""The prompts of a client, from submission to result.

The modules are listed from the bottom up.

Modules:
    snapshot: The queue of a server at one moment.  Pure.
    order: The unfinished prompts of one client in the order in which they will run.
    names: Names of local files by a template.
    output: Outputs: files on the server, and images that came over the socket.
    result: The outputs of a prompt.
    gallery: Results and outputs as HTML.
    outcomes: Events and errors for each way in which a prompt ends.  Pure.
    progress: How far a prompt is, and how long it will take.
    state: The state of a prompt: what evidence makes of it.  Pure.
    prompt: A prompt that the tracker follows.
    ledger: Counters and log lines of prompts.
    queue_monitor: The server's queue, requested as rarely as possible.
    deafness: Detection of a deaf socket.
    stopping: Requests to stop a prompt, and their repetition.
    tracker: The registry of prompts, and its lock; ends each prompt once.
    lookup: Search for a prompt whose submission was not answered.
    poller: The thread that asks for queue and history over HTTP.
    cancel: Cancellation of prompts.
    describe: The progress of a prompt, in numbers and in words.
    handle: :class:`JobHandle`, which does the work of a job.
    job: :class:`Job`, a thin future.
    callbacks: Callbacks of a prompt, and the progress bar of the waiting thread.
    submit: Submission, exactly once, and attaching to a prompt.
    memory: Waits for free VRAM, and retries after running out of memory.
    parts: The parts of a client, which its methods hand to functions.
    execute: What a client's methods for workflows and jobs do with these.
"""
