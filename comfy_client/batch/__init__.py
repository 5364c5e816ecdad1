"""Runs of many prompts: ``map`` and ``sweep`` for clients and pools.

Modules:
    map_loop: The loop of ``map``, its results as HTML, and the prompts of one call.
    items: The iterable from which ``map`` makes prompts.
    sweep: The loop of ``sweep``, and the execution times of its rows.
    runner: The servers on which a sweep runs its prompts, and the search for earlier ones.
    outage: How long to wait for a server that is away.
    grid: The points of a sweep, in the order that costs the servers the least.  Pure.
    journal: The SQLite file of the points that were begun, and how they ended.
    row: A row of a sweep, and its JSON record in a journal.
    rows: All rows of a sweep, their files and tables.
    sheet: The rows as a grid of pictures: a contact sheet, and HTML for a notebook.
"""
