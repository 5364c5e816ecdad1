"""Workflows in the files that ComfyUI saves.

ComfyUI writes up to two texts into each file, as JSON: ``prompt``, the graph in API format, and
``workflow``, the graph in UI format (if the request had it in ``extra_data.extra_pnginfo``).
Each kind of file has a reader here, which finds the texts without decoding a pixel or a sound.
Nothing in a file is trusted: no size, no number, no offset.

``stream``, ``decode``
    The bytes of a file in their order, and JSON, within limits.
``png``, ``exif``, ``isobmff``, ``matroska``, ``audio``, ``headers``
    The readers: PNG (which is also written), WebP and JPEG, MP4 and MOV, WebM and MKV, FLAC, Ogg
    and MP3, GLB with safetensors and SVG.
``read``
    Which reader a file needs, and what it finds.
"""
