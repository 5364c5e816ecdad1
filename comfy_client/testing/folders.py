"""The folders of one embedded server, laid out as in ComfyUI."""

from __future__ import annotations

import json
import mimetypes
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .server_clock import ServerClock, ServerIds
from .versions import Version, since

#: Files that count as models.
MODEL_ENDINGS = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
#: The checkpoint that every server has.
CHECKPOINT = "simulated.safetensors"
#: Folders by kind of model, relative to the server's root; the first one is the main one.
MODEL_FOLDERS: dict[str, tuple[str, ...]] = {
    "checkpoints": ("models/checkpoints", "output/checkpoints"),
    "configs": ("models/configs",),
    "loras": ("models/loras", "output/loras"),
    "vae": ("models/vae", "output/vae"),
    "text_encoders": ("models/text_encoders", "models/clip", "output/clip"),
    "diffusion_models": ("models/unet", "models/diffusion_models", "output/diffusion_models"),
    "clip_vision": ("models/clip_vision",),
    "style_models": ("models/style_models",),
    "embeddings": ("models/embeddings",),
    "diffusers": ("models/diffusers",),
    "vae_approx": ("models/vae_approx",),
    "controlnet": ("models/controlnet", "models/t2i_adapter"),
    "gligen": ("models/gligen",),
    "upscale_models": ("models/upscale_models",),
    "latent_upscale_models": ("models/latent_upscale_models",),
    "custom_nodes": ("custom_nodes",),
    "hypernetworks": ("models/hypernetworks",),
    "photomaker": ("models/photomaker",),
    "classifiers": ("models/classifiers",),
    "model_patches": ("models/model_patches",),
    "audio_encoders": ("models/audio_encoders",),
}
#: Extensions for kinds of model that do not have ``MODEL_ENDINGS``; an empty set allows any.
_ENDINGS = {
    "configs": frozenset({".yaml"}),
    "diffusers": frozenset({"folder"}),
    "classifiers": frozenset({""}),
    "custom_nodes": frozenset[str](),
}
#: Files that every ComfyUI ships; only their names matter here.
_SHIPPED = {
    "models/configs": (
        "anything_v3.yaml",
        "v1-inference.yaml",
        "v1-inference_clip_skip_2.yaml",
        "v1-inference_clip_skip_2_fp16.yaml",
        "v1-inference_fp16.yaml",
        "v1-inpainting-inference.yaml",
        "v2-inference-v.yaml",
        "v2-inference-v_fp32.yaml",
        "v2-inference.yaml",
        "v2-inference_fp32.yaml",
        "v2-inpainting-inference.yaml",
    ),
    "custom_nodes": ("example_node.py.example", "websocket_image_save.py"),
    "web/extensions/core": ("clipspace.js", "groupNode.js", "widgetInputs.js"),
}
#: Further folders of servers since 2026.
NEW_MODEL_FOLDERS: dict[str, tuple[str, ...]] = {
    kind: (f"models/{kind}",)
    for kind in (
        "background_removal",
        "frame_interpolation",
        "geometry_estimation",
        "optical_flow",
        "detection",
    )
}
_LONGEST_NAME = 200  # characters
_ANNOTATIONS = {"[output]": "output", "[input]": "input", "[temp]": "temp"}


class Folders:
    """The folders of a server's files, which are created if missing."""

    def __init__(
        self,
        root: Path,
        version: Version,
        clock: ServerClock,
        ids: ServerIds,
        *,
        web: Path | None = None,
    ) -> None:
        self.root = root
        self.clock = clock
        self.ids = ids
        self.version: Version = version
        self.user: Path = root / "user"
        #: The page: the server's own, or one that is only read.
        self.web: Path = web or root / "web"
        #: Packs that were loaded from elsewhere, and what each calls its folder for the page.
        self.packs: dict[Path, str] = {}
        kinds = {**MODEL_FOLDERS, **(NEW_MODEL_FOLDERS if since(version, "0.28") else {})}
        if since(version, "0.33"):
            kinds["datasets"] = ("datasets",)
        self.models: dict[str, list[Path]] = {
            kind: [root / name for name in names] for kind, names in kinds.items()
        }
        is_new = not (root / "web").exists()  # otherwise the files are the user's by now
        self.make()
        if is_new:
            self._ship()

    def make(self) -> None:
        """Create the folders that are missing."""
        for name in ("input", "output", "temp", "user/default", "web"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for folders in self.models.values():
            folders[0].mkdir(parents=True, exist_ok=True)

    def _ship(self) -> None:
        """Create the files that a new ComfyUI has from the start, and one checkpoint."""
        page = "<!doctype html><title>ComfyUI</title><p>An embedded ComfyUI, without its frontend."
        (self.root / "web" / "index.html").write_text(page, encoding="utf-8")
        for folder, names in _SHIPPED.items():
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            for name in names:
                (self.root / folder / name).touch()
        checkpoints = self.models["checkpoints"][0]
        (checkpoints / CHECKPOINT).write_bytes(no_weights(CHECKPOINT))

    def of_type(self, name: str) -> Path | None:
        """Return the folder for a file type such as ``"input"``, or None if it is unknown."""
        return self.root / name if name in _ANNOTATIONS.values() else None

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Split ``"x.png [temp]"`` into name and folder; without a suffix, the folder is None."""
        for ending, kind in _ANNOTATIONS.items():
            if name.endswith(ending):
                # One more character: the server expects a space before the bracket.
                return name[: -len(ending) - 1], self.root / kind
        return name, None

    def input_file(self, name: str) -> Path:
        """Return the path of the file that a loader's input names, which may be missing.

        Raises:
            ValueError: The path leads out of its folder.
        """
        plain, given = self.annotated(name)
        folder = given or self.root / "input"
        if not is_inside(folder / plain, folder):
            raise ValueError(f"Invalid image file: {name}")
        return folder / plain

    def inputs(self, media: str = "") -> list[str]:
        """Return the names of files directly in the input folder, of one kind such as ``image``."""
        names = sorted(entry.name for entry in os.scandir(self.root / "input") if entry.is_file())
        return [name for name in names if not media or _is_media(name, media)]

    def save_target(
        self, kind: str, prefix: str, width: int, height: int
    ) -> tuple[Path, str, int, str]:
        """Return folder, base name, first free number and subfolder for new files with a prefix.

        Raises:
            Exception: The prefix leads out of the folder; no subclass of it, as on the server.
        """
        now = self.clock.local()
        for word, value in (
            ("%width%", str(width)),
            ("%height%", str(height)),
            ("%year%", f"{now.year}"),
            ("%month%", f"{now.month:02}"),
            ("%day%", f"{now.day:02}"),
            ("%hour%", f"{now.hour:02}"),
            ("%minute%", f"{now.minute:02}"),
            ("%second%", f"{now.second:02}"),
        ):
            prefix = prefix.replace(word, value)
        base = self.root / kind
        subfolder, name = os.path.split(os.path.normpath(prefix))
        folder = base / subfolder
        if not is_inside(folder, base):
            common = os.path.commonpath((base, os.path.abspath(folder)))
            raise Exception(
                "**** ERROR: Saving image outside the output folder is not allowed."
                f"\n full_output_folder: {os.path.abspath(folder)}"
                f"\n         output_dir: {base}"
                + ("" if since(self.version, "0.33") else f"\n         commonpath: {common}")
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder, name, 1 + max(_numbers(folder, name), default=0), subfolder

    # -- models -------------------------------------------------------------------------

    def model_files(self, kind: str) -> Iterator[tuple[int, str, Path]]:
        """Yield folder index, relative name and path of each weights file of a kind of model."""
        for index, folder in enumerate(self.models[kind]):
            for at, folders, names in os.walk(folder):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(names):
                    if not name.startswith(".") and _ending(name) in MODEL_ENDINGS:
                        path = Path(at, name)
                        yield index, os.path.relpath(path, folder), path

    def model_endings(self, kind: str) -> frozenset[str]:
        """Return the file extensions of a kind of model; an empty set if any is allowed."""
        return _ENDINGS.get(kind, MODEL_ENDINGS)

    def model_names(self, kind: str) -> list[str]:
        """Return the sorted names of all files of a kind of model, without duplicates."""
        endings = self.model_endings(kind)
        found = set()
        for folder in self.models[kind]:
            for at, folders, names in os.walk(folder):
                folders[:] = [name for name in folders if name != ".git"]
                for name in names:
                    if not endings or _ending(name) in endings:
                        found.add(os.path.relpath(os.path.join(at, name), folder))
        return sorted(found)

    def add_models(self, kind: str, names: Iterable[Any]) -> None:
        """Make model files of these names, without weights, unless they are there.

        Raises:
            ValueError: An unknown kind, or a name that is none of such a file.
        """
        if kind not in self.models:
            raise ValueError(f"a folder of models is one of {', '.join(self.models)}, not {kind!r}")
        folder, endings = self.models[kind][0], self.model_endings(kind)
        checked = [name for name in names if _is_name(name) and is_inside(folder / name, folder)]
        if others := [name for name in names if name not in checked]:
            raise ValueError(f"not the name of a file below {kind}: {others[0]!r:.100}")
        for name in checked:
            if endings and _ending(name) not in endings:
                raise ValueError(f"{name!r:.100} has none of {', '.join(sorted(endings))}")
        for name in checked:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(no_weights(name))

    def model_file(self, kind: str, name: str) -> Path | None:
        """Return the path of a model's file by its kind and relative name, or None if missing."""
        inside = os.path.relpath(os.path.join("/", name), "/")
        for folder in self.models.get(kind, ()):
            if os.path.isfile(folder / inside) and is_inside(folder / inside, folder):
                return folder / inside
        return None


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and not name.endswith("/")


def is_inside(path: str | Path, folder: Path) -> bool:
    """Return whether a path is the given folder or inside it, with links resolved.

    The folder itself may be a link.  An invalid name is never inside.
    """
    try:
        real = os.path.realpath(path), os.path.realpath(folder)
        return (
            os.path.commonpath((os.path.abspath(path), folder)) == str(folder)
            and os.path.commonpath(real) == real[1]
        )
    except ValueError:  # a NUL, or another drive on Windows
        return False


def is_image(name: str) -> bool:
    """Return whether a file name has the extension of a picture."""
    return _is_media(name, "image")


def _is_media(name: str, kind: str) -> bool:
    return (mimetypes.guess_type(name, strict=False)[0] or "").startswith(f"{kind}/")


def safetensors_header(path: Path, limit: int) -> Any:
    """Return the JSON header of a ``.safetensors`` file; None if it exceeds ``limit`` bytes."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size)) if size <= limit else None


def no_weights(name: str) -> bytes:
    """Return the content of a model's file without weights, which ``/view_metadata`` can read."""
    if _ending(name) not in (".safetensors", ".sft"):
        return b""
    header = json.dumps({"__metadata__": {"simulated": "this file contains no weights"}}).encode()
    return struct.pack("<Q", len(header)) + header


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _numbers(folder: Path, name: str) -> Iterator[int]:
    for entry in os.scandir(folder):
        if entry.name.startswith(f"{name}_"):
            digits = entry.name[len(name) + 1 :].split("_")[0]
            yield int(digits) if digits.isdecimal() else 0
