"""Figures, not tests: how fast comfy_client is beside a bare client.

``python -m tests.bench [URL] [--quick] [--rivals] [--rst FILE]``
"""
