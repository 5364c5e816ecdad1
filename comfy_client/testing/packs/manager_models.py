"""Model files that a Manager installs: where they go, and what the lists tell of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ..folders import Folders, is_inside, no_weights
from .installed import SUCCESS
from .listed import ListedModel

#: Folders of types that have another name, for the save path ``default``.
_FOLDERS: Final[Mapping[str, str]] = {
    "checkpoint": "checkpoints",
    "clip": "text_encoders",
    "diffusion_model": "diffusion_models",
    "embedding": "embeddings",
    "lora": "loras",
    "t2i-adapter": "controlnet",
    "t2i-style": "controlnet",
    "unclip": "checkpoints",
    "unet": "diffusion_models",
    "upscale": "upscale_models",
}
_OTHER: Final = "etc"
_LONGEST: Final = 200  # characters of a name


def install_model(params: Mapping[str, Any], folders: Folders, unreachable: Collection[str]) -> str:
    """Make the file of a model, without weights; return the result.

    Raises:
        TypeError: There is no save path, which ends the worker of a Manager.
    """
    if params.get("save_path") is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    path = _path(params, folders)
    below = folders.root / "models"
    usable = len(params["filename"]) <= _LONGEST and is_inside(path, below) and path != below
    if params["url"] in unreachable or not usable:
        return f"Model installation error: {params['url']}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(no_weights(path.name))
    except FileExistsError:
        pass  # as it is: a kept root may hold real models
    except OSError:
        return f"Model installation error: {params['url']}"
    return SUCCESS


def _path(params: Mapping[str, Any], folders: Folders) -> Path:
    """Return the path of a model's file, which may lead out of the folder of models."""
    kind, where = str(params["type"]).lower(), str(params["save_path"])
    if where == "default":
        where = _FOLDERS.get(kind, kind)
        where = where if where in folders.models else _OTHER
    return folders.root / "models" / where / str(params["filename"])


def is_listed(params: Mapping[str, Any], models: Iterable[ListedModel]) -> bool:
    """Return whether a list has a model with this base, file, save path and address.

    Raises:
        KeyError: One of them is missing.
    """
    wanted = [params[name] for name in ("base", "filename", "save_path", "url")]
    return any([one.base, one.filename, one.save_path, one.url] == wanted for one in models)


def models_answer(models: Iterable[ListedModel], folders: Folders) -> dict[str, Any]:
    """Return the answer to ``externalmodel/getlist``."""
    return {"models": [_told(model, folders) for model in models]}


def _told(model: ListedModel, folders: Folders) -> dict[str, Any]:
    told = {
        "name": model.name or model.filename,
        "type": model.type,
        "base": model.base,
        "save_path": model.save_path,
        "description": "",
        "reference": "",
        "filename": model.filename,
        "url": model.url,
        "size": model.size,
    }
    return {**told, "installed": str(_path(told, folders).exists())}
