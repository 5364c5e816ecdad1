"""Workflows in the files that ComfyUI saves.

ComfyUI writes up to two texts into each file, as JSON: ``prompt``, the graph in API format, and
``workflow``, the graph in UI format (if the request had it in ``extra_data.extra_pnginfo``).
Each kind of file has a reader here, which finds the texts without decoding a pixel or a sound.
Nothing in a file is trusted: no size, no number, no offset; see :mod:`.stream` for the limits.
"""
