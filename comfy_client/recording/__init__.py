"""Recordings of traffic, and redaction of secrets.

Modules:
    recorder: Writes what client and server exchange to a file.
    secrets: Knows secret words, and hides them in errors, logs and recordings.
"""
