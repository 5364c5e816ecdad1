"""Workflows in the files that ComfyUI saves.

ComfyUI writes up to two texts into each file, as JSON: ``prompt``, the graph in API format, and
``workflow``, the graph in UI format (if the request had it in ``extra_data.extra_pnginfo``).
Each kind of file has a reader here, which finds the texts without decoding a pixel or a sound.
Nothing in a file is trusted: no size, no number, no offset.

Modules:
    read: Choice of a reader by the first bytes, and decoding of the texts it finds; the readers
        for GLB, safetensors and SVG.
    stream: The bytes of a file in their order, and JSON decoded, within limits.
    png: PNG, which is also written.
    exif: WebP and JPEG.
    isobmff: MP4 and MOV.
    matroska: WebM and MKV.
    audio: FLAC, Ogg and MP3.
"""
