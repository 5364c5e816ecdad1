"""Many prompts.

``grid``
    The points of a sweep, in the order that costs the server the least.
``split``
    Which server is to have which points.
``journal``, ``records``
    A file that remembers what has been run, and what it has of each row.
``row``, ``rows``, ``sheet``, ``gallery``
    What has ended: its files, tables, a contact sheet, and how a notebook shows it.
``map``, ``sweep``
    The work of both.
``window``
    The prompts of one call that are under way.
``runner``, ``recovery``, ``times``
    Where the prompts of a sweep run, what is there from before, and how long they ran.
``watching``
    What a bar shows of a sweep.
``batches``
    The methods of the client for them.
"""
