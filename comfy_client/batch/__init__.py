"""Many prompts.

``grid``
    The points of a sweep, in the order that costs the server the least.
``journal``
    A file that remembers what has been run.
``row``, ``rows``, ``sheet``
    What has ended: its files, tables, and a contact sheet.
``map``, ``sweep``
    The work of both; ``map.Window`` has the prompts that are under way.
``batches``
    The methods of the client for them.
"""
