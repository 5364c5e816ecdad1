"""Checks that node classes make of their own inputs, which definitions do not mention.

Such a check replaces the server's check of its parameters, or of all inputs if it has
``**others``: the server then accepts any choice and any number there.  The classes were found by
posting a wrong value for each choice of each class to ComfyUI 0.28.1 and 0.33.0.
"""

from __future__ import annotations

import inspect
import math
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from .input_specs import InputSpec
from .model_files import folder_of, is_file_name
from .validate import Check, is_v3

#: A function that lists the files at the top of a server folder; None if unknown.
Listed = Callable[[str], Collection[str] | None]

#: File inputs that the server checks itself, by option: its word for such a file.
_UPLOADS: Final = {"image_upload": "image", "video_upload": "video", "audio_upload": "audio"}
#: The same, for inputs whose definition has no such option.
_LOOKED_FOR: Final = {("LoadLatent", "latent"): "latent", ("WebcamCapture", "image"): "image"}
#: V3 classes that look for a 3D model, and check no other input.
_TAKE_ALL: Final = frozenset(("Load3D", "Load3DAdvanced", "Load3DAnimation"))
_TASKS: Final = ("MODEL_TASK_ID", "RIG_TASK_ID", "RETARGET_TASK_ID")
_MISSING: Final = object()
_CHECKS: Final[dict[str, Check]] = {}


@attrs.frozen
class FileInput:
    """An input whose value must name a file that the server can find.

    Attributes:
        what: The server's word for such a file.
        choices: The files that the server offers, at the top of its input folder or below;
            ``None``: unknown.
    """

    what: str
    choices: list[Any] | None


def own_check(
    class_type: str,
    files: Mapping[str, FileInput],
    free: Iterable[str],
    listed: Listed,
    *,
    stays_inside: bool,
) -> Check | None:
    """Return the check that a class makes of its own inputs, or None.

    Args:
        class_type: The class.
        files: The inputs that take files, by name.
        free: The names of inputs that the class accepts unchecked.
        listed: The files in the folders of the server.
        stays_inside: Whether the server finds no files outside of its folders (ComfyUI 0.28).
    """
    if class_type in _CHECKS:
        return _CHECKS[class_type]
    names = [name for name in files if name.isidentifier()]
    more = [name for name in free if name.isidentifier()]
    if not names and not more:
        return None

    def check(**given: Any) -> bool | str:
        for name in names:
            if name not in given:  # in the words of Python
                raise TypeError(f"missing 1 required positional argument: {name!r}")
            if not _may_exist(given[name], files[name].choices, listed, stays_inside):
                return f"Invalid {files[name].what} file: {given[name]}"
        return True

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind) for name in [*names, *more]]
    if class_type in _TAKE_ALL:
        parameters.append(inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD))
    vars(check)["__signature__"] = inspect.Signature(parameters)
    return check


def file_input(definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> FileInput | None:
    """Return the kind of file that an input must name, or None if the input names no file."""
    is_combo = isinstance(spec.kind, list) or spec.kind == "COMBO"
    whats = [what for option, what in _UPLOADS.items() if spec.options.get(option) and is_combo]
    whats += [_LOOKED_FOR[one] for one in [(class_type, spec.name)] if one in _LOOKED_FOR]
    if class_type in _TAKE_ALL and spec.name == "model_file" and is_v3(definition):
        whats.append("3D model")
    if not whats:
        return None
    is_remote = any(name.startswith("remote") for name in spec.options)
    return FileInput(whats[0], None if is_remote else spec.choices)


def takes_any(definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> bool:
    """Return whether the server accepts any value of the right type for an input."""
    if class_type in _TAKE_ALL:
        return is_v3(definition)
    own = _CHECKS.get(class_type)
    parameters = () if own is None else inspect.signature(own).parameters.values()
    return any(one.kind is one.VAR_KEYWORD or one.name == spec.name for one in parameters)


def takes_more(class_type: str) -> bool:
    """Return whether a class accepts inputs that its definition lacks."""
    return class_type == "CustomCombo"


def has_hidden_choices(definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> bool:
    """Return whether a class of a node pack may accept choices that its definition does not list.

    An empty list usually means a check of the class's own, or else the server would refuse any
    value.  If it means that such files are missing, the value is a file name: see
    :func:`is_hidden_choice`.
    """
    module = definition.get("python_module")
    is_of_pack = isinstance(module, str) and module.startswith("custom_nodes")
    return is_of_pack and spec.choices == [] and folder_of(class_type, spec.name) is None


def is_hidden_choice(value: object) -> bool:
    """Return whether a value may be an unlisted choice, rather than the name of a missing file."""
    return not (isinstance(value, str) and is_file_name(value))


# -- files ------------------------------------------------------------------------------


def _may_exist(value: Any, choices: list[Any] | None, listed: Listed, stays_inside: bool) -> bool:
    """Return whether the server may find a file; files in subfolders are assumed to exist."""
    folder, name = "input", value
    for each in ("input", "output", "temp"):
        if value.endswith(f"[{each}]"):
            folder, name = each, value[: -len(each) - 3]
            break
    if stays_inside and _leaves(name, folder):
        return False
    known = listed(folder) if choices is None or folder != "input" else choices
    if known is None or name in known or name in ("", "."):
        return True
    if "/" not in name and "\\" not in name:
        return False
    # Most lists have only the top of a folder; that of 3D models includes one subfolder.
    below = f"{name.partition('/')[0]}/"
    return not any(isinstance(one, str) and one.startswith(below) for one in known)


def _leaves(name: str, folder: str) -> bool:
    """Return whether a name leads out of a folder."""
    parts = posixpath.normpath(name).split("/")
    return parts[0] in ("", "..") and folder not in parts


# -- classes ----------------------------------------------------------------------------


def _check_of(*classes: str) -> Callable[[Check], Check]:
    """Return a decorator that registers a function as the own check of some node classes.

    The function has the parameters that the check has on the server.
    """

    def register(check: Check) -> Check:
        check.__qualname__ = f"{classes[0]}.validate_inputs"  # appears in Python's messages
        _CHECKS.update(dict.fromkeys(classes, check))
        return check

    return register


@_check_of("CustomCombo")
def _choice(choice: Any, index: Any = 0, **others: Any) -> bool:
    return True  # the frontend alone knows the options


@_check_of("SelectModelDevice", "SelectCLIPDevice", "SelectVAEDevice")
def _device(device: Any = "default") -> bool:
    return True  # the node falls back to another one


@_check_of("ModelAttentionBackend")
def _attention(attention: Any) -> bool:
    return True  # the node falls back to another one


@_check_of("ComfySoftSwitchNode")
def _switch(switch: Any, on_false: Any = _MISSING, on_true: Any = _MISSING) -> bool | str:
    if on_false is _MISSING and on_true is _MISSING:
        return "At least one of on_false or on_true must be connected to Switch node"
    return True


@_check_of("KlingCameraControls")
def _camera(
    horizontal_movement: float,
    vertical_movement: float,
    pan: float,
    tilt: float,
    roll: float,
    zoom: float,
) -> bool | str:
    moves = (horizontal_movement, vertical_movement, pan, tilt, roll, zoom)
    if all(math.isclose(move, 0.0) for move in moves):
        return "Invalid camera control configs: at least one of the values must be non-zero"
    return True


@_check_of("TripoConversionNode")
def _task(input_types: Mapping[str, Any]) -> bool | str:
    if input_types["original_model_task_id"] not in _TASKS:
        return f"original_model_task_id must be {_TASKS[0]}, {_TASKS[1]} or {_TASKS[2]} type"
    return True
