"""Files of models: the folder of each loader's input, similar file names, and where to get them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import attrs

from ..nearest import nearest
from ..redaction import is_secret_name
from ..showing.cells import ShownAsTable, write_plain
from ..to_dict import AsDict
from ..values import list_at, table_at
from .graph import brief, class_of, describe, inputs_of, shorten, title_of
from .problems import Problem

if TYPE_CHECKING:
    from ..showing.tables import Table

_FILE: Final = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{1,11}", re.DOTALL)
#: Folders below ``models``, by the input's name, or by class and input where that differs.
_FOLDERS: Final = {
    "audio_encoder_name": "audio_encoders",
    "ckpt_name": "checkpoints",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "clip_name4": "text_encoders",
    "config_name": "configs",
    "control_net_name": "controlnet",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "lora_name": "loras",
    "photomaker_model_name": "photomaker",
    "style_model_name": "style_models",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "CLIPVisionLoader.clip_name": "clip_vision",
    "LatentUpscaleModelLoader.model_name": "latent_upscale_models",
    "ModelPatchLoader.name": "model_patches",
    "UpscaleModelLoader.model_name": "upscale_models",
}
#: The most choices that are searched for near ones.
_LOOKED_AT: Final = 100_000
#: Limits of what a file may say of its models: entries of a node, and characters.
_MOST_SOURCES: Final = 20
_LONGEST_NAME: Final = 300
_LONGEST_URL: Final = 1000
_FOLDER: Final = re.compile(r"[\w-]+(?:[/.][\w-]+)*", re.ASCII)
#: Why a URL is not used, by a word that stands for it in a graph, which never has the URL itself.
UNUSED: Final = {
    "login": "it has a login or a key in it",
    "scheme": "it is neither http nor https",
    "form": "it is no plain URL",
}


@attrs.frozen
class MissingModel(AsDict):
    """A file that a workflow needs and the server lacks; see :meth:`Workflow.missing_models`.

    URL and folder are what the workflow says, which anybody may have written: look before you
    download.

    Attributes:
        name: The name of the file, as the input has it.
        folder: The folder below the server's ``models``; ``None``: unknown.
        url: Where to get it: http or https, without credentials; ``None``: the workflow does not
            say.
        node_id: The id of the node that loads it.
        input: The name of the input.
        title: The title of the node; ``None``: it has none.
        class_type: The class of the node; ``None``: it has none.
    """

    name: str
    folder: str | None
    url: str | None
    node_id: str
    input: str
    title: str | None = None
    class_type: str | None = None

    def __str__(self) -> str:
        known = {"class_type": self.class_type, "_meta": {"title": self.title}}
        node = describe({self.node_id: known}, self.node_id)
        folder = "a folder that is not known"
        if self.folder is not None:
            folder = f"models/{shorten(self.folder, 200)}"
        url = "no URL is known" if self.url is None else shorten(self.url, 2000)
        return f"{brief(self.name)} of {node}, in {folder}: {url}"


class MissingModels(ShownAsTable, list[MissingModel]):
    """The list of :meth:`Workflow.missing_models`; ``print`` and notebooks show it as a table."""

    __slots__ = ()

    _repr_pretty_ = write_plain

    def _table(self) -> Table:
        from ..showing.tables import MOST_ROWS, Table

        rows = [
            (
                shorten(one.name, _LONGEST_NAME),
                "" if one.folder is None else f"models/{shorten(one.folder, _LONGEST_NAME)}",
                shorten(one.title or one.class_type or one.node_id, _LONGEST_NAME),
                one.url or "",
            )
            for one in self[:MOST_ROWS]
        ]
        more = [f"... ({len(self)} in all)"] if len(self) > MOST_ROWS else []
        head = ("missing model", "folder", "node", "URL")
        below = more if rows else ["no model is missing"]
        return Table(head if rows else (), rows, below=below, most_text=_LONGEST_URL)


def folder_of(class_type: str | None, input_name: str | None) -> str | None:
    """Return the folder below ``models`` whose files an input offers, or None."""
    return _FOLDERS.get(f"{class_type}.{input_name}") or _FOLDERS.get(input_name or "")


def is_file_name(text: str) -> bool:
    """Return whether a value looks like a file name."""
    return len(text) < 1000 and _FILE.fullmatch(text) is not None


def nearest_files(name: str, names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Return similar file names: the same name in other folders first."""
    by_base: dict[str, list[str]] = {}
    for one in dict.fromkeys(name for name in islice(names, _LOOKED_AT) if isinstance(name, str)):
        by_base.setdefault(_base(one), []).append(one)
    wanted = _base(name)
    found = by_base.pop(wanted, [])
    for base in nearest(wanted, by_base, limit) if len(found) < limit else ():
        found = found + by_base[base]
    return tuple(found[:limit])


# -- where to get them --------------------------------------------------------------------


def models_in(declared: object) -> list[dict[str, str]]:
    """Return the models that a node declares, as the frontend's ``properties.models``.

    Each has a ``name``, and a ``url``, a ``directory`` or both.  All else is left out: other URLs
    than http and https, URLs with credentials, folders that lead elsewhere, and long texts.  A key
    of :data:`UNUSED` says as ``unused`` why there is no URL.
    """
    found = []
    for one in islice(list_at(declared), _MOST_SOURCES):
        said = table_at(one)
        name, url, folder, unused = map(said.get, ("name", "url", "directory", "unused"))
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            continue
        kept = {"name": name}
        if isinstance(url, str) and url:
            unused = why_unused(url)
            if unused is None:
                kept["url"] = url
        if isinstance(unused, str) and unused in UNUSED:
            kept["unused"] = unused
        if isinstance(folder, str) and len(folder) < 100 and _FOLDER.fullmatch(folder):
            kept["directory"] = folder
        if len(kept) > 1:
            found.append(kept)
    return found


def is_safe_url(url: str) -> bool:
    """Return whether a URL is safe to show to people, who may open or copy it."""
    return why_unused(url) is None


def why_unused(url: str) -> str | None:
    """Return a key of :data:`UNUSED` for a URL that is not safe to show; None for a safe one."""
    if len(url) > _LONGEST_URL:
        return "form"
    if not (url.isascii() and url.isprintable()) or re.search(r"[\s\"'<>`\\]", url):
        return "form"
    try:
        parts = urlsplit(url)
        host, query = parts.hostname, parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return "form"
    if "@" in parts.netloc or any(is_secret_name(name, in_query=True) for name, _ in query):
        return "login"
    if parts.scheme not in ("http", "https"):
        return "scheme"
    return None if host else "form"


def source_of(
    graph: Mapping[str, Any], node_id: str, name: str | None, value: object
) -> tuple[str | None, str | None]:
    """Return the URL and the folder of a model file, each None if unknown.

    Args:
        graph: The graph, whose nodes may declare models in their ``_meta``.
        node_id: The node that loads the file.
        name: The input.
        value: The name of the file; a declared one in another subfolder counts, too.
    """
    known = _declared(graph, node_id, value)
    return known.get("url"), known.get("directory") or folder_of(class_of(graph, node_id), name)


def unused_url_of(graph: Mapping[str, Any], node_id: str, value: object) -> str | None:
    """Return a key of :data:`UNUSED` if the URL that a node declares for a file is not used."""
    return _declared(graph, node_id, value).get("unused")


def _declared(graph: Mapping[str, Any], node_id: str, value: object) -> dict[str, str]:
    declared = models_in(table_at(graph, node_id, "_meta").get("models"))
    wanted = _base(value) if isinstance(value, str) else None
    return next((one for one in declared if _base(one["name"]) == wanted), {})


def missing_models(graph: Mapping[str, Any], problems: Iterable[Problem]) -> MissingModels:
    """Return the missing model files that the problems name, if their URL or folder is known."""
    return MissingModels(_missing(graph, problems))


def _missing(graph: Mapping[str, Any], problems: Iterable[Problem]) -> Iterator[MissingModel]:
    for problem in problems:
        node_id, name = problem.node_id, problem.input
        if problem.type != "value_not_in_list" or node_id is None or name is None:
            continue
        value = inputs_of(graph, node_id).get(name)
        if isinstance(value, str) and is_file_name(value):
            url, folder = source_of(graph, node_id, name, value)
            if url or folder:
                title = title_of(graph, node_id)
                yield MissingModel(value, folder, url, node_id, name, title, problem.class_type)


def _base(name: str) -> str:
    return re.split(r"[\\/]", name)[-1].lower()
