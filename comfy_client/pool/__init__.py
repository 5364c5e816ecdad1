"""Several servers as one: :class:`comfy_client.ComfyPool`.

``pool``
    The executor: what users call.
``servers``, ``running``, ``batches``
    Its methods: for its servers, for one workflow, and for many.
``map``
    Many prompts, a few at a time.
``sweep``
    The prompts of a grid, on the servers that are to have them.
``dispatcher``
    Has jobs run by its servers, and looks after these.
``moving``
    Decides what becomes of the jobs that a server refuses, fails or loses.
``changing``
    What both are about, and its lock.
``worker``, ``aftermath``
    The thread in which that changes, and what follows a change once the lock is free.
``member``
    One server of a pool, and the thread that connects to it and submits.
``status``
    What a pool says of itself: its status, and its events.
``definitions``
    The node definitions of several servers as one.  Pure.
``health``
    Which servers fail job after job while others are well.  Pure.
``intervals``
    The times of a pool.
``schedule``, ``needs``
    Which job goes where, and what a workflow needs of a server.  Pure.
"""
