"""The bill of fidelity: how the embedded server differs from what was recorded of real ones.

Every request and every message of ``tests/recordings`` is asked for again, of an embedded server of
that version, made comparable, and compared.

    python -m tests.fidelity            prints the tables
    python -m tests.fidelity --write    also keeps them, and shows them in the guide

Modules:
    player: Plays one recording to a server.
    graphs: The workflows of the recordings, which hold a word in their place.
    alike: What is compared of answers and messages.
    bill: The tables.
"""
