"""Transcripts of what a server sent, and the secrets that they must not hold."""
