"""Tasks of Manager 4 as they are posted, and the parameters that it reads in them.

It tries models of parameters one after the other, whatever the kind of the task, and takes the one
of which most fields are given.  So parameters that lack a field pass for those of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from .manager import CHANNELS

KINDS: Final = (
    "install",
    "uninstall",
    "update",
    "update-comfyui",
    "fix",
    "disable",
    "enable",
    "install-model",
)
_Check = Callable[[Any], bool]
_MODEL: Final = "ModelMetadata"
_MODEL_NEEDS: Final = ("name", "type", "url", "filename")
_MODEL_FIELDS: Final = ("client_id", "ui_id", *_MODEL_NEEDS)
_MORE: Final = "For further information visit https://errors.pydantic.dev/2.14/v"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _may_be(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


_OPTIONAL_TEXT: Final = _may_be(_text)
_OPTIONAL_BOOL: Final = _may_be(lambda value: isinstance(value, bool))
_MODE: Final[_Check] = ("cache", "local", "remote").__contains__

#: The models, in their order: the fields that must be given, and the others.
_MODELS: Final[Mapping[str, tuple[Mapping[str, _Check], Mapping[str, _Check]]]] = {
    "InstallPackParams": (
        {
            **dict.fromkeys(("id", "version", "selected_version"), _text),
            "mode": _MODE,
            "channel": CHANNELS.__contains__,
        },
        {
            "ui_id": _OPTIONAL_TEXT,
            "repository": _OPTIONAL_TEXT,
            "pip": _may_be(lambda value: isinstance(value, list)),
            "skip_post_install": _OPTIONAL_BOOL,
        },
    ),
    "UpdatePackParams": ({"node_name": _text}, {"node_ver": _OPTIONAL_TEXT}),
    "UpdateAllPacksParams": ({}, {"mode": _may_be(_MODE), "ui_id": _OPTIONAL_TEXT}),
    "UpdateComfyUIParams": ({}, {"is_stable": _OPTIONAL_BOOL, "target_version": _OPTIONAL_TEXT}),
    "FixPackParams": ({"node_name": _text, "node_ver": _text}, {}),
    "UninstallPackParams": ({"node_name": _text}, {"is_unknown": _OPTIONAL_BOOL}),
    "DisablePackParams": ({"node_name": _text}, {"is_unknown": _OPTIONAL_BOOL}),
    "EnablePackParams": ({"cnr_id": _text}, {}),
    _MODEL: (
        dict.fromkeys(_MODEL_NEEDS, _text),
        dict.fromkeys(("base", "save_path", "ui_id"), _OPTIONAL_TEXT),
    ),
}
#: The field without which the worker cannot do a task of a kind.
_NEEDED: Final[Mapping[str, str]] = {
    "install": "selected_version",
    **dict.fromkeys(("uninstall", "update", "fix", "disable"), "node_name"),
    "update-comfyui": "is_stable",
    "enable": "cnr_id",
    "install-model": "filename",
}


@attrs.frozen
class ManagerTask:
    """A task in the queue of Manager 4."""

    ui_id: str
    client_id: str
    kind: str
    params: Mapping[str, Any]
    #: The model by which its parameters were read.
    model: str

    @property
    def is_complete(self) -> bool:
        """Whether the parameters are those of the kind; the worker dies otherwise."""
        return _NEEDED[self.kind] in self.params

    def told(self) -> dict[str, Any]:
        """Return the task as events tell of it."""
        names = ("ui_id", "client_id", "kind", "params")
        return {name: getattr(self, name) for name in names}

    def death(self) -> str:
        """Return the result of a task of which the worker died."""
        kind = f"<OperationType.{self.kind.replace('-', '_')}: '{self.kind}'>"
        params = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return (
            f"Exception: ({kind}, QueueTaskItem(ui_id={self.ui_id!r}, client_id={self.client_id!r},"
            f" kind={kind}, params={self.model}({params})))"
        )


def read_task(body: Any) -> ManagerTask:
    """Return the task in a posted body.

    Raises:
        ValueError: It is invalid; the message is the text of the answer.
    """
    given = body if isinstance(body, dict) else {}
    wrong = [
        f"{name}\n  Field required [type=missing, input_value={body!r}, "
        f"input_type={type(body).__name__}]\n    {_MORE}/missing"
        for name in ("ui_id", "client_id", "kind", "params")
        if name not in given
    ]
    wrong += [
        f"{name}\n  Input should be a valid string [type=string_type, input_value={value!r}, "
        f"input_type={type(value).__name__}]\n    {_MORE}/string_type"
        for name in ("ui_id", "client_id")
        if name in given and not isinstance(value := given[name], str)
    ]
    if (kind := given.get("kind", KINDS[0])) not in KINDS:
        known = ", ".join(f"'{one}'" for one in KINDS[:-1]) + f" or '{KINDS[-1]}'"
        wrong.append(
            f"kind\n  Input should be {known} [type=enum, input_value={kind!r}, "
            f"input_type={type(kind).__name__}]\n    {_MORE}/enum"
        )
    if not isinstance(params := given.get("params", {}), dict):
        wrong += [
            f"params.{model}\n  Input should be a valid dictionary or instance of {model} "
            f"[type=model_type, input_value={params!r}, input_type={type(params).__name__}]\n"
            f"    {_MORE}/model_type"
            for model in _MODELS
        ]
    if wrong:
        count = f"{len(wrong)} validation error{'s' if len(wrong) > 1 else ''}"
        lines = "\n".join(wrong)
        raise ValueError(f"Invalid task data: {count} for QueueTaskItem\n{lines}")
    return task_of(given["ui_id"], given["client_id"], kind, params)


def read_model(body: Any) -> ManagerTask:
    """Return the task to install the model of a posted body.

    Raises:
        ValueError: It is invalid; the message is the text of the answer.
    """
    given = body if isinstance(body, dict) else {}
    for name in _MODEL_FIELDS:
        if name not in given:
            raise ValueError(f"Missing required field: {name}")
    ids = {name: given[name] for name in ("ui_id", "client_id")}
    task = read_task({**ids, "kind": "install-model", "params": given})
    if task.model != _MODEL:
        raise ValueError(f"Invalid model data: validation errors for {_MODEL}")
    return task


def task_of(ui_id: str, client_id: str, kind: str, params: Mapping[str, Any]) -> ManagerTask:
    """Return a task with these parameters.

    Raises:
        ValueError: No model has a field of them with such a value.
    """
    return ManagerTask(ui_id, client_id, kind, *_read(params))


def _read(given: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return parameters by the model that fits best, and its name."""
    best, most = "", -1
    for name, (required, optional) in _MODELS.items():
        fields = {**required, **optional}
        count = len(given.keys() & fields.keys())
        fits = all(one in given for one in required) and all(
            check(given[one]) for one, check in fields.items() if one in given
        )
        if fits and count > most:
            best, most = name, count
    if not best:
        raise ValueError("Invalid task data: validation errors for QueueTaskItem: params")
    required, optional = _MODELS[best]
    return {one: given.get(one) for one in (*required, *optional)}, best
