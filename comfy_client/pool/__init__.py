"""Several servers as one: :class:`comfy_client.ComfyPool`.

``pool``
    The executor: what users call.
``terms``
    The servers that a job may go to, its priority, and the options of its submission.
``submission``
    The submission of workflows: of one, or of many.
``membership``
    The servers of a pool: which they are, and who listens to them.
``lifecycle``
    The life of a pool: it connects, shuts down, and ends with its process.
``taking_back``
    The prompts of one call, which are taken back when it ends.
``sweep_servers``
    The servers of a sweep: which point each one runs next, and what its failures mean.
``dispatcher``
    The lock of a pool: makes each change, and tells users what happened.
``worker``
    The thread in which the changes are made.
``server``
    The thread of each server, which connects to it and submits.
``moving``
    Functions of the state that take jobs in, move them on and end them.
``availability``
    Functions of the state for servers that come, go, fail and recover.
``refusals``
    The reasons why a job waits, or why no server can run it, in words.
``state``
    The state of a pool as data: servers, jobs, news.
``status``
    The status and the events of a pool, as users see them.
``health``
    The failures of servers: those that fail job after job are suspect.  Pure.
``schedule``
    The choice of the next job, and of a server for it.  Pure.
``needs``
    The needs of workflows, and the offers of servers.  Pure.
"""
