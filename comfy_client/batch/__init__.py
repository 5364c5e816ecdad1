"""Many prompts: ``map`` and ``sweep``, of a client and of a pool.

``map_loop``, ``items``
    The loop of ``map``, and the iterable from which it takes prompts.
``in_flight``
    The prompts of one call that are under way.
``sweep``
    The loop of a sweep.
``runner``, ``recovery``, ``outage``
    The servers of a sweep; its prompts from an earlier call; a server that is away.
``grid``
    The points of a sweep, in the order that costs the servers the least.
``journal``, ``journal_file``, ``row_records``
    The file that remembers what has run, and its record of each row.
``row``, ``rows``, ``times``
    The rows that have ended: their files, tables and execution times.
``sheet``, ``cards``, ``sweep_bar``
    The rows as a contact sheet, as HTML for a notebook, and as a bar of progress.
``batches``
    The work of ``map`` and ``sweep`` of a client.
"""
