"""Answers of a test for nodes, in place of running them: a picture, a text, an output, an error."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from PIL import Image

from .active_faults import ActiveFaults, jsonable
from .folders import Folders
from .images import Pictures, decoded_picture
from .node_faults import concerning, node_fault
from .stubs import Shape, value_of

#: A picture: its bytes, a path, or a Pillow image.
GivenPicture = bytes | str | os.PathLike[str] | Image.Image

#: The name under which the answers are active, as faults of nodes are.
NODE_ANSWER: Final = "node_answer"
_MOST_PICTURES: Final = 1000
_ENDINGS: Final = {"JPEG": "jpg"}


@attrs.frozen
class NodeAnswer:
    """The answer of a node, in place of its outputs.

    Attributes:
        pictures: The bytes of files.
        text: Its text; ``None``: none.
        ui: Further outputs that clients are shown.
        error: What it raises; ``None``: nothing.
    """

    pictures: tuple[bytes, ...]
    text: str | None
    ui: Mapping[str, Any]
    error: BaseException | None

    def given(self, node: Any, arguments: Mapping[str, Any], folders: Folders) -> dict[str, Any]:
        """Return what a node would return, after writing the files of an output node."""
        if self.error is not None:
            raise self.error.with_traceback(None)  # it is raised for each prompt
        ui: dict[str, Any] = {}
        if getattr(node, "OUTPUT_NODE", False):
            if self.pictures:
                kind = getattr(node, "kind", "output")
                ui["images"] = self._saved(kind, arguments.get("filename_prefix"), folders)
            if self.text is not None:
                ui["text"] = [self.text]
        ui |= self.ui
        return {"result": self._outputs(node), **({"ui": ui} if ui else {})}

    def _saved(self, kind: str, prefix: Any, folders: Folders) -> list[dict[str, str]]:
        opened = [Image.open(io.BytesIO(data)) for data in self.pictures]
        prefix = prefix if isinstance(prefix, str) else "ComfyUI"
        folder, name, number, subfolder = folders.save_target(kind, prefix, *opened[0].size)
        saved = []
        for index, (data, picture) in enumerate(zip(self.pictures, opened, strict=True)):
            form = str(picture.format)
            file = f"{name}_{number + index:05}_.{_ENDINGS.get(form, form.lower())}"
            (folder / file).write_bytes(data)
            saved.append({"filename": file, "subfolder": subfolder, "type": kind})
        return saved

    def _outputs(self, node: Any) -> tuple[Any, ...]:
        """Return a value for each output: the pictures, the text, or a stand-in of its type."""
        opened = [Image.open(io.BytesIO(data)) for data in self.pictures]
        shape = Shape(*opened[0].size, len(opened)) if opened else Shape()
        is_list = getattr(node, "OUTPUT_IS_LIST", ())
        values: list[Any] = []
        for slot, kind in enumerate(node.RETURN_TYPES):
            if kind == "IMAGE" and opened:
                value: Any = Pictures.of(opened)
            elif kind == "STRING" and self.text is not None:
                value = self.text
            else:
                value = value_of(kind, shape, type(node).__name__)
            values.append([value] if slot < len(is_list) and is_list[slot] else value)
        return tuple(values)


def answer_for(
    faults: ActiveFaults,
    node: str,
    image: GivenPicture | Sequence[GivenPicture] | None,
    text: str | None,
    ui: Mapping[str, Any] | None,
    error: str | BaseException | None,
    times: int | None,
) -> Any:
    """Have the nodes of a class, or the one with an id, answer so; return the active fault.

    Raises:
        ValueError: Nothing is given, or an error beside other things; a picture that is broken or
            too large; a text or an output of another type.
        OSError: A picture cannot be read.
    """
    others = [one for one in (image, text, ui) if one is not None]
    if not others and error is None:
        raise ValueError("an answer for a node has an image, a text, a ui or an error")
    if others and error is not None:
        raise ValueError("a node that raises an error answers nothing else")
    if not isinstance(text, str | None):
        raise ValueError(f"a text is a string, not {text!r:.100}")
    if not isinstance(error, str | BaseException | None):
        raise ValueError(f"an error is a message or an exception, not {error!r:.100}")
    shown = jsonable("ui", ui or {})
    if not isinstance(shown, dict) or not all(isinstance(one, list) for one in shown.values()):
        raise ValueError("a ui is a mapping with lists, such as {'text': ['...']}")
    raised = RuntimeError(error) if isinstance(error, str) else error
    answer = NodeAnswer(tuple(_files(image)), text, shown, raised)
    return faults.add(NODE_ANSWER, node_fault(node, answer), times=times)


def answer_of(faults: ActiveFaults, names: Iterable[str]) -> NodeAnswer | None:
    """Return the newest answer for a node with these names, which counts it, or None."""
    for fault in concerning(faults, (NODE_ANSWER,), {*names}):
        fault.hits += 1
        found: NodeAnswer = fault.settings.effect
        return found
    return None


def _files(image: Any) -> list[bytes]:
    """Return the bytes of pictures; they are read at once."""
    if image is None:
        return []
    is_several = isinstance(image, Sequence) and not isinstance(image, bytes | str)
    several = [*image] if is_several else [image]
    if not 0 < len(several) <= _MOST_PICTURES:
        raise ValueError(f"an answer has 1 to {_MOST_PICTURES} images, not {len(several)}")
    return [*map(_file, several)]


def _file(picture: Any) -> bytes:
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()
    if not isinstance(picture, bytes | str | os.PathLike):
        raise ValueError(f"an image is bytes, a path or a Pillow image, not {picture!r:.100}")
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    decoded_picture(data)
    return data
