"""Many prompts.

``grid``
    The points of a sweep, in the order that costs the server the least.
``journal``
    A file that remembers what has been run.
``row``, ``rows``, ``sheet``, ``gallery``
    What has ended: its files, tables, a contact sheet, and how a notebook shows it.
``map``, ``sweep``
    The work of both; ``map.Window`` has the prompts that are under way.
``watching``
    What a bar shows of a sweep.
``batches``
    The methods of the client for them.
"""
