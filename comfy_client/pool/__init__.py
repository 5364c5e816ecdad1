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
    The lock of a pool: makes each change, and tells users what happened.
``worker``
    The thread in which the changes are made.
``server``
    The thread of each server, which connects to it and submits.
``moving``
    What becomes of the jobs that a server refuses, fails or loses.  Pure functions of the state.
``availability``
    Which servers are there and well.  Pure functions of the state.
``refusals``
    Why jobs wait, and why no server can run a workflow, in words.
``state``
    The state of a pool as data: servers, jobs, news.
``status``
    What users see of a pool: its status, and its events.
``health``
    Which servers fail job after job while others are well.  Pure.
``schedule``
    Which job goes to which server.  Pure.
``needs``
    What a workflow needs of a server, and what servers have.  Pure.
"""
