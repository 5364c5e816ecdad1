"""Several servers that are used as one: :class:`comfy_client.ComfyPool`.

Modules:
    pool: :class:`ComfyPool`.
    submission: Submission of workflows, and the servers of a sweep: what each runs next.
    membership: The servers of a pool: how they connect and leave, and which jobs they may get.
    pooled_job: A job of a pool, and its handle, which can move from server to server.
    dispatcher: Gives the jobs of a pool to its servers; the lock of its state, and its thread.
    server_thread: The thread of each server, which connects to it and submits.
    moving: Functions that admit jobs to a pool, move them between servers and end them.
    availability: Functions that track and describe servers that come, go, fail and recover.
    pool_state: The state of a pool as data: servers, jobs, news; its status and events.
    health: The failures of servers, some of which fail job after job.  Pure.
    schedule: The choice of the next job, and of a server for it.  Pure.
    needs: The needs of workflows, and the offers of servers.  Pure.
"""
