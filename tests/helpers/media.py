"""Graphs that end in a file of each kind, and the files that a real ComfyUI 0.3.75 made of them.

They lie in ``tests/media``.  ``python -m tests.helpers.media URL`` makes those of :data:`SAVED`
again, on a real server.  ``SaveGLB.glb`` was written by its function ``save_glb``, since it takes
a model to have a mesh; those of :data:`FOREIGN` by ffmpeg, as node packs that save videos have
it: with the tags of the container, or with both graphs in a comment.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import wave
from pathlib import Path
from typing import Any

from comfy_client import ComfyApi
from tests.helpers.graphs import node

MEDIA = Path(__file__).parent.parent / "media"

_IMAGES = {
    "1": {
        **node("EmptyImage", width=16, height=16, batch_size=2, color=0x3366AA),
        "_meta": {"title": "Gruß \u2603"},
    }
}
_VIDEO = {**_IMAGES, "2": node("CreateVideo", images=["1", 0], fps=4.0)}
_LATENT = {"1": node("EmptyLatentImage", width=16, height=16, batch_size=1)}
_AUDIO = {"1": node("LoadAudio", audio="tone.wav")}


def _saved(graph: dict[str, Any], class_type: str, link: str, slot: str, **inputs: Any) -> Any:
    inputs = {link: [slot, 0], **inputs, "filename_prefix": "media"}
    return {**graph, "9": node(class_type, **inputs)}


_WEBP = {"fps": 4.0, "lossless": True, "quality": 80, "method": "default"}
#: By the name of the file, which begins with the class of the node.
SAVED: dict[str, dict[str, Any]] = {
    "SaveImage.png": _saved(_IMAGES, "SaveImage", "images", "1"),
    "SaveAnimatedPNG.png": _saved(
        _IMAGES, "SaveAnimatedPNG", "images", "1", fps=4.0, compress_level=4
    ),
    "SaveAnimatedWEBP.webp": _saved(_IMAGES, "SaveAnimatedWEBP", "images", "1", **_WEBP),
    "SaveWEBM.webm": _saved(_IMAGES, "SaveWEBM", "images", "1", fps=4.0, codec="vp9", crf=32.0),
    "SaveVideo.mp4": _saved(_VIDEO, "SaveVideo", "video", "2", format="mp4", codec="h264"),
    "SaveAudio.flac": _saved(_AUDIO, "SaveAudio", "audio", "1"),
    "SaveAudioMP3.mp3": _saved(_AUDIO, "SaveAudioMP3", "audio", "1", quality="128k"),
    "SaveAudioOpus.opus": _saved(_AUDIO, "SaveAudioOpus", "audio", "1", quality="64k"),
    "SaveLatent.latent": _saved(_LATENT, "SaveLatent", "samples", "1"),
}
_PICTURE = {
    "1": node("EmptyImage", width=16, height=16, batch_size=2, color=255),
    "9": node("SaveImage", images=["1", 0], filename_prefix="media"),
}
FOREIGN = dict.fromkeys(
    ["SaveGLB.glb", "tags.mov", "faststart.mp4", "comment.mp4", "comment.mkv", "flac.ogg"], _PICTURE
)
#: What all of them carry.
ALL = {**SAVED, **FOREIGN}

#: The graph of the page that comes with each of :data:`SAVED`.
UI: dict[str, Any] = {
    "nodes": [{"id": 1, "type": "EmptyImage", "inputs": [], "widgets_values": [16, 16, 2, 255]}],
    "links": [],
    "version": 0.4,
}


def tone(seconds: float = 0.02, rate: int = 44100) -> bytes:
    """The file that the audio nodes load."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        samples = (int(9000 * math.sin(i / 20)) for i in range(int(seconds * rate)))
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file.getvalue()


def main(url: str) -> None:
    """Make the files of :data:`SAVED` again."""
    with ComfyApi(url) as api:
        api.upload_image(tone(), "tone.wav", overwrite=True)
        for name, graph in SAVED.items():
            api.run(graph, workflow_ui=UI).files[0].save(MEDIA / name)


if __name__ == "__main__":
    main(sys.argv[1])
