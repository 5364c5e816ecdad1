"""The truth about our prompts: what is submitted, how it is doing, what it left.

From the bottom up:

``snapshot``, ``outcomes``, ``state``
    What evidence makes of a prompt; pure.  ``JobState`` decides, for example, that one is lost.
``progress``, ``names``, ``gallery``, ``output``, ``result``
    How far it is, and what it left: under which names it is saved (``transport/local_files.py``
    writes it), and how it is shown, by ``gallery`` in notebooks.
``prompt``, ``queue_monitor``, ``deafness``, ``ledger``, ``tracker``
    The ``Ledger`` counts prompts, and logs their steps.  The ``Tracker`` has the registry and
    the lock.  It applies events to states, and ends each job once (``Tracker.resolve``).
``lookup``, ``poller``
    The ``Poller`` asks queue and history over HTTP, in a thread of its own.
``cancel``, ``describe``, ``handle``, ``job``
    What users hold in their hands: a ``Job``, a thin future.  Its ``JobHandle`` does the work, for
    the modules of the library, too.
``callbacks``
    Callbacks for a prompt, in the thread that waits or in the delivery thread, and the bar of the
    thread that waits (``showing/bars.py`` draws it).
``submit``, ``memory``
    Submitting, exactly once, and attaching; trying again with more memory.
``parts``, ``execute``
    The parts of a client, and what its methods for workflows and jobs do with them.
"""
