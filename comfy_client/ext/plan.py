"""The plan of what a workflow lacks on a server: node packs, model files, and what nobody can get.

Everything here is a pure function: of what the workflow needs, and what the server and its Manager
know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import attrs

from ..models.packs import InstalledPack, KnownModel, KnownPack, packs_with
from ..to_dict import AsDict
from ..values import list_at, table_at
from ..workflow.graph import brief, inputs_of, shorten
from ..workflow.missing_packs import is_comfyui, pack_of
from ..workflow.model_files import (
    UNUSED,
    MissingModel,
    is_file_name,
    is_safe_url,
    models_in,
    source_of,
    unused_url_of,
)
from ..workflow.problems import CORE, Problem
from .pack_names import folder_of, repositories, repository_key

#: Why something cannot be provided.
Cause = Literal[
    "no_manager",
    "unknown_class",
    "other_comfyui",
    "group_node",
    "import_failed",
    "class_absent",
    "no_url",
    "no_folder",
    "not_listed",
    "several_urls",
    "page",
    "no_model",
    "still_missing",
    "too_many",
    "refused",
    "failed",
]
_GET_MANAGER: Final = (
    "this server has no ComfyUI-Manager, which would install it (pip install comfyui-manager, and "
    "start ComfyUI 0.4 or newer with --enable-manager)"
)
_MODEL_ENDINGS: Final = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".onnx", ".gguf", ".sft")
#: Files beside models that are no programs either.
_DATA_ENDINGS: Final = (".json", ".yaml", ".yml", ".txt")
#: The folder of node packs, whose files the server runs.
_CODE: Final = "custom_nodes"
#: The Managers that download only models of their list.
_OWN_LIST_ONLY: Final = ("manager3", "manager4-legacy")
#: Prefixes of group nodes, from before subgraphs.
_GROUPS: Final = ("workflow>", "workflow/")
_RELEASE: Final = re.compile(r"\d+(?:\.\d+){1,3}", re.ASCII)
#: The most items that a text lists.
_MOST: Final = 5
#: The most node classes of a plan, and the most model files: anybody may have written the workflow.
_MOST_NEEDS: Final = 500
#: The most characters of the name of a model file.
_LONGEST_NAME: Final = 300


def _name(text: str) -> str:
    return shorten(text, _LONGEST_NAME)


def _sentence(text: str) -> str:
    return shorten(text, 3000)


@attrs.frozen
class Obstacle(AsDict):
    """A thing that nobody but a person can provide; ``str()`` is the sentence.

    Attributes:
        cause: Why: ``no_manager``, ``unknown_class``, ``other_comfyui``, ``group_node``,
            ``import_failed``, ``class_absent`` (the pack is there and lacks it), ``no_url``,
            ``no_folder``, ``not_listed`` (Managers install repositories of their lists
            only, and Manager 3 and the legacy page models, too), ``several_urls``, ``page`` (the
            URL is no file), ``no_model`` (a file that may be a program), ``still_missing``,
            ``too_many`` for one plan, ``refused`` by security settings, or ``failed``.
        about: The node class, the pack or the file.
        message: What a person must do; one line without control characters.
    """

    cause: Cause
    about: str = attrs.field(converter=_name)
    message: str = attrs.field(converter=_sentence)

    def __str__(self) -> str:
        return self.message


@attrs.frozen
class PlannedPack(AsDict):
    """A node pack that would be installed, enabled, or loaded by a restart.

    Attributes:
        id: What the Manager's ``install`` or ``enable`` takes: an id in the registry, or a URL.
        action: ``"install"``, ``"enable"``, or ``"restart"`` for one that was installed since
            the server started.
        classes: The node classes that are needed of it.
        reason: Why this pack was chosen.
        alternatives: Other packs that offer one of these classes, by id.
    """

    _in_dict = ("host",)

    id: str
    action: Literal["install", "enable", "restart"]
    classes: tuple[str, ...]
    reason: str
    alternatives: tuple[str, ...] = ()

    @property
    def host(self) -> str | None:
        """The host of the repository; ``None``: the pack comes from the registry."""
        return urlsplit(self.id).hostname if "://" in self.id else None

    def __str__(self) -> str:
        host = shorten(self.host or "the registry", 200)
        where = {"install": f" from {host}", "enable": "", "restart": ""}
        verb = "load" if self.action == "restart" else self.action
        others = f"; instead of {_listed(self.alternatives)}" if self.alternatives else ""
        return (
            f"{verb} the pack {shorten(self.id, 200)}{where[self.action]}, for "
            f"{_listed(self.classes)} ({self.reason}{others})"
        )


@attrs.frozen
class PlannedModel(AsDict):
    """A model file that the Manager would download.

    Attributes:
        name: The name that the file gets.
        folder: Its folder below the server's ``models``, with subfolders.
        url: Where the Manager gets it.
        size: Its size as the Manager's list has it, such as ``"144MB"``; ``None``: unknown.
        value: The name by which inputs find the file afterwards.
        places: The inputs that name it, as node id and input; an input is empty if the file says
            only that the node needs the model.
        alternatives: Other URLs that the workflow names for this file.
    """

    _in_dict = ("host",)

    name: str
    folder: str
    url: str
    size: str | None
    value: str
    places: tuple[tuple[str, str], ...]
    alternatives: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The host of the URL."""
        return urlsplit(self.url).hostname or ""

    def __str__(self) -> str:
        size = shorten(self.size, 20) if self.size else "size unknown"
        others = f"; instead of {_listed(self.alternatives)}" if self.alternatives else ""
        return (
            f"download {shorten(self.name, 200)} ({size}, from {shorten(self.host, 200)}) to "
            f"models/{shorten(self.folder, 200)}: {shorten(self.url, 1000)}{others}"
        )


@attrs.frozen
class Plan(AsDict):
    """Plan of what a workflow lacks on a server; ``print`` shows it.

    A plan is true if nothing is lacking.

    Attributes:
        packs: Node packs to install, to enable, or to load by a restart.
        models: Model files to download.
        impossible: What only a person can provide, each with a sentence.
        queued: How many prompts run or wait on the server: a restart loses them.
    """

    _in_dict = ("ok", "restart")

    packs: tuple[PlannedPack, ...] = ()
    models: tuple[PlannedModel, ...] = ()
    impossible: tuple[Obstacle, ...] = ()
    queued: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is lacking."""
        return not (self.packs or self.models or self.impossible)

    @property
    def restart(self) -> bool:
        """Whether the server must be restarted, as for all packs."""
        return bool(self.packs)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return "the server has all node classes and models of the workflow"
        steps = [*map(str, self.packs), *map(str, self.models)]
        if self.restart:
            prompts = "1 prompt" if self.queued == 1 else f"{self.queued} prompts"
            lost = f", which loses {prompts} in its queue" if self.queued else ""
            steps.append(f"restart the server{lost}")
        lines = ["to provide what the workflow lacks:", *(f"  {step}" for step in steps)]
        missing = ["cannot be provided without you:", *(f"  {one}" for one in self.impossible)]
        return "\n".join([*(lines if steps else ()), *(missing if self.impossible else ())])


# -- what the workflow needs --------------------------------------------------------------


@attrs.frozen
class MissingClass:
    """A node class that the server lacks, and what the workflow says of its pack.

    Attributes:
        name: The class.
        cnr_id: The pack's id in the registry; ``None``: the workflow does not say.
        aux_id: The pack's repository on GitHub, as ``owner/name``; ``None``: likewise.
        ver: The version of the pack; ``None``: likewise.
    """

    name: str
    cnr_id: str | None = None
    aux_id: str | None = None
    ver: str | None = None


@attrs.frozen
class WorkflowNeeds:
    """The node classes and the model files that a server lacks.

    Attributes:
        classes: The classes.
        models: Files of inputs that the server does not offer.
        declared: Files that nodes of these classes need as the workflow says; the server may have
            them.
        left_out: How many more there are, as the limit of a plan was reached.
        unused: Why the URL that the workflow has for a file is not used, by the file's name: keys
            of ``UNUSED``.
    """

    classes: tuple[MissingClass, ...] = ()
    models: tuple[MissingModel, ...] = ()
    declared: tuple[MissingModel, ...] = ()
    left_out: int = 0
    unused: Mapping[str, str] = attrs.field(factory=dict)


def needs_of(graph: Mapping[str, Any], problems: Iterable[Problem]) -> WorkflowNeeds:
    """Return what a server lacks, by the problems of a check."""
    classes: dict[str, MissingClass] = {}
    models, declared = [], []
    unused: dict[str, str] = {}
    for problem in problems:
        node_id, name = problem.node_id, problem.class_type
        if node_id is None or name is None:
            continue
        if problem.type == "missing_node_type":
            meta = table_at(graph, node_id, "_meta")
            if name not in classes or not (classes[name].cnr_id or classes[name].aux_id):
                classes[name] = MissingClass(name, **pack_of(meta))
            for one in models_in(list_at(meta, "models")):
                folder, url, why = map(one.get, ("directory", "url", "unused"))
                if folder or url:
                    declared.append(MissingModel(one["name"], folder, url, node_id, ""))
                if why:
                    unused[one["name"]] = why
        elif problem.type == "value_not_in_list" and problem.input is not None:
            value = inputs_of(graph, node_id).get(problem.input)
            if isinstance(value, str) and is_file_name(value):
                url, folder = source_of(graph, node_id, problem.input, value)
                why = unused_url_of(graph, node_id, value)
                if why:
                    unused[value] = why
                if url or folder or why or value.lower().endswith(_MODEL_ENDINGS):
                    place = node_id, problem.input, problem.title, name
                    models.append(MissingModel(value, folder, url, *place))
    named = tuple(classes.values())
    needed = tuple(dict.fromkeys(declared))
    return WorkflowNeeds(
        named[:_MOST_NEEDS],
        tuple(models[:_MOST_NEEDS]),
        needed[:_MOST_NEEDS],
        left_out=sum(max(0, len(some) - _MOST_NEEDS) for some in (named, models, needed)),
        unused=unused,
    )


# -- what there is ------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ServerFacts:
    """Facts that a server and its Manager know.

    Attributes:
        manager: Which Manager it is: see :attr:`Manager.dialect`; ``None``: there is none.
        comfyui: The version of ComfyUI; ``None``: unknown.
        installed: The installed packs by id.
        at_start: Those that were installed when the server started.
        known: The packs that the Manager knows.
        repositories: The URLs among their ids that the Manager cannot confuse, by their keys.
        listed: The models of its list.
        files: The names of the model files, by kind.
        failures: Why packs failed to import, by id.
        queued: How many prompts run or wait.
    """

    manager: str | None = None
    comfyui: str | None = None
    installed: Mapping[str, InstalledPack] = attrs.field(factory=dict)
    at_start: Mapping[str, InstalledPack] = attrs.field(factory=dict)
    known: Mapping[str, KnownPack] = attrs.field(factory=dict)
    listed: tuple[KnownModel, ...] = ()
    files: Mapping[str, frozenset[str]] = attrs.field(factory=dict)
    failures: Mapping[str, str] = attrs.field(factory=dict)
    queued: int = 0
    repositories: Mapping[str, str] = attrs.field(init=False, repr=False)

    @repositories.default
    def _unique(self) -> Mapping[str, str]:
        return repositories(self.known)


def make_plan(needs: WorkflowNeeds, facts: ServerFacts) -> Plan:
    """Return the plan for what a workflow needs."""
    packs: dict[str, PlannedPack] = {}
    obstacles: dict[Obstacle, None] = {}
    for missing in needs.classes:
        found = _pack_for(missing, facts)
        if isinstance(found, Obstacle):
            obstacles[found] = None
        else:
            packs[found.id] = _joined(packs.get(found.id), found)
    models: dict[tuple[str, str], PlannedModel] = {}
    lacking = (one for one in needs.declared if not _is_there(one, facts.files))
    for model in (*needs.models, *lacking):
        planned = _download_of(model, facts, needs.unused.get(model.name))
        if isinstance(planned, Obstacle):
            obstacles[planned] = None
        else:
            key = planned.folder, planned.name
            models[key] = _with(models.get(key), planned)
    if needs.left_out:
        text = (
            f"{needs.left_out} more node classes or models are missing than one plan can have: "
            "provide for the workflow again once these are there"
        )
        obstacles[Obstacle("too_many", "workflow", text)] = None
    return Plan(tuple(packs.values()), tuple(models.values()), tuple(obstacles), facts.queued)


def _with(known: PlannedModel | None, more: PlannedModel) -> PlannedModel:
    """Return a download with the places of another one of the same file, and its URL."""
    if known is None:
        return more
    urls = dict.fromkeys((known.url, *known.alternatives, more.url))
    others = tuple(urls)[1 : 1 + _MOST]
    return attrs.evolve(known, places=(*known.places, *more.places), alternatives=others)


# -- packs ----------------------------------------------------------------------------------


def _joined(known: PlannedPack | None, more: PlannedPack) -> PlannedPack:
    if known is None:
        return more
    others = dict.fromkeys((*known.alternatives, *more.alternatives))
    classes = (*known.classes, *more.classes)
    return attrs.evolve(known, classes=classes, alternatives=tuple(others))


def _pack_for(missing: MissingClass, facts: ServerFacts) -> PlannedPack | Obstacle:
    """Return the pack to get for a class, or why there is none."""
    if missing.name.startswith(_GROUPS):
        text = (
            f"{brief(missing.name)} is a group node, from before subgraphs: open the file in the "
            "frontend, which turns it into a subgraph, and save it"
        )
        return Obstacle("group_node", missing.name, text)
    if missing.cnr_id == CORE:
        return _of_comfyui(missing, facts)
    if facts.manager is None:
        return _without_manager(missing)
    candidates = dict(_candidates(missing, facts))
    loaded = None
    for id, reason in candidates.items():
        pack = installed_as(id, facts.installed)
        others = tuple(one for one in candidates if one != id)[:_MOST]
        if pack is None:
            return PlannedPack(id, "install", (missing.name,), reason, others)
        if not pack.enabled:
            return PlannedPack(pack.id, "enable", (missing.name,), reason, others)
        if not is_loaded(id, facts.at_start):
            since = "it was installed since the server started"
            return PlannedPack(pack.id, "restart", (missing.name,), since, others)
        loaded = loaded or pack
    if loaded is not None:
        return _lacks(missing, loaded, facts)
    return _without_pack(missing, facts)


def _without_pack(missing: MissingClass, facts: ServerFacts) -> Obstacle:
    """Return the sentence for a class whose pack the Manager cannot install."""
    listed = [pack.id for pack in packs_with(missing.name, facts.known.values())]
    if any(map(is_comfyui, listed)):
        return _of_comfyui(missing, facts)
    if missing.aux_id:
        text = (
            f"the class {brief(missing.name)} needs the repository {brief(missing.aux_id)} on "
            "GitHub, which is not in the Manager's lists, or shares its name with others there: "
            "if you trust it, install it on the server by hand, or with api.ext.manager.install_git"
        )
        return Obstacle("not_listed", missing.name, text)
    if listed:
        text = (
            f"the class {brief(missing.name)} belongs to {_listed(listed)}, but the Manager's "
            "lists have several repositories of that name, and it may install any of them: if you "
            "trust it, install it on the server by hand, or with api.ext.manager.install_git"
        )
        return Obstacle("not_listed", missing.name, text)
    newer = f" than {facts.comfyui}" if facts.comfyui else ""
    text = (
        f"no pack is known for the node class {brief(missing.name)}: ask where the workflow comes "
        f"from, or update ComfyUI if the class belongs to a newer one{newer}"
    )
    return Obstacle("unknown_class", missing.name, text)


def _candidates(missing: MissingClass, facts: ServerFacts) -> Iterator[tuple[str, str]]:
    """Yield the packs that may have a class, the best first: what ``install`` takes, and why."""
    if missing.cnr_id:
        yield missing.cnr_id, "the workflow names it"
    if missing.aux_id:
        url = f"https://github.com/{missing.aux_id}"
        url = facts.repositories.get(repository_key(url), url)
        if _can_come(url, facts):
            yield url, "the workflow names it"
    known = [
        pack
        for pack in packs_with(missing.name, facts.known.values())
        if not is_comfyui(pack.id) and _can_come(pack.id, facts)
    ]
    for pack in known:
        there = installed_as(pack.id, facts.installed)
        if there is not None and not there.enabled:
            yield pack.id, "it is installed, but disabled"
    for pack in known:
        is_named = missing.name in pack.classes
        yield pack.id, "the Manager lists the class" if is_named else "the name fits its pattern"


def _can_come(id: str, facts: ServerFacts) -> bool:
    """Return whether the Manager would install this very pack, or has it."""
    is_sure = "://" not in id or repository_key(id) in facts.repositories
    return is_sure or installed_as(id, facts.installed) is not None


def installed_as(id: str, installed: Mapping[str, InstalledPack]) -> InstalledPack | None:
    """Return the installed pack with an id of the registry, or of a repository, whatever case."""
    wanted = (folder_of(id) if "://" in id else id).casefold()
    for pack in installed.values():
        names = (pack.id, (pack.aux_id or "").rpartition("/")[2])
        if wanted in (name.casefold() for name in names):
            return pack
    return None


def is_loaded(id: str, at_start: Mapping[str, InstalledPack]) -> bool:
    """Return whether a pack was installed and enabled when the server started."""
    pack = installed_as(id, at_start)
    return pack is not None and pack.enabled


def _of_comfyui(missing: MissingClass, facts: ServerFacts) -> Obstacle:
    """Return the sentence for a class of ComfyUI itself."""
    has = f"this server has {facts.comfyui}" if facts.comfyui else "this server lacks it"
    wanted, there = _release(missing.ver), _release(facts.comfyui)
    if wanted and there and wanted > there:
        text = f"needs ComfyUI {missing.ver} or newer, and {has}: update ComfyUI there"
    elif wanted and there:
        text = (
            f"was part of ComfyUI {missing.ver} by the file, and {has} without it: either it was "
            "removed, or the file is wrong and a node pack is missing"
        )
    else:
        text = f"is part of ComfyUI itself in another version, most likely a newer one, and {has}"
    return Obstacle("other_comfyui", missing.name, f"the class {brief(missing.name)} {text}")


def _release(version: str | None) -> tuple[int, ...] | None:
    found = _RELEASE.match((version or "").removeprefix("v"))
    return tuple(map(int, found[0].split("."))) if found else None


def _without_manager(missing: MissingClass) -> Obstacle:
    pack = missing.cnr_id or missing.aux_id
    belongs = f"the pack {brief(pack)}" if pack else "a node pack"
    text = f"the class {brief(missing.name)} needs {belongs}: {_GET_MANAGER}"
    return Obstacle("no_manager", missing.name, text)


def _lacks(missing: MissingClass, pack: InstalledPack, facts: ServerFacts) -> Obstacle:
    """Return the sentence for a class that a loaded pack should have."""
    why = facts.failures.get(pack.id)
    if why is not None:
        last = next((line for line in reversed(why.splitlines()) if line.strip()), "no reason")
        text = (
            f"the pack {brief(pack.id)} is installed, but cannot be imported: "
            f"{shorten(last.strip(), 300)}"
        )
        return Obstacle("import_failed", pack.id, text)
    of = f" (the file is from {missing.ver})" if missing.ver else ""
    text = (
        f"the pack {brief(pack.id)} {pack.ver or ''} is there, but lacks the class "
        f"{brief(missing.name)}{of}: update the pack, or install another version"
    )
    return Obstacle("class_absent", missing.name, " ".join(text.split()))


# -- models ---------------------------------------------------------------------------------


def _is_there(model: MissingModel, files: Mapping[str, frozenset[str]]) -> bool:
    kind, _, below = (model.folder or "").partition("/")
    name = PurePosixPath(below, model.name.replace("\\", "/"))
    return str(name) in files.get(kind, ())


def _is_name(path: PurePosixPath) -> bool:
    """Return whether a path is the name of a model file, which stays in its folder."""
    text = str(path)
    is_short = len(text) <= _LONGEST_NAME and text.isprintable()
    return is_short and not (path.is_absolute() or ".." in path.parts or ":" in text)


def _download_of(
    model: MissingModel, facts: ServerFacts, unused: str | None
) -> PlannedModel | Obstacle:
    """Return the download of a model, or why it cannot be downloaded.

    ``unused`` is a key of :data:`UNUSED` if the workflow has a URL that is not used.
    """
    path = PurePosixPath(model.name.replace("\\", "/"))
    if not _is_name(path):
        text = f"{brief(model.name)} is no name of a model file: choose another in the workflow"
        return Obstacle("no_folder", model.name, text)
    url = _file_url(model.url)
    listed = [one for one in facts.listed if is_safe_url(one.url)]
    entries = [one for one in listed if one.url in (model.url, url)]
    entries.sort(key=lambda one: one.kind != (model.folder or "").partition("/")[0])
    named = [one for one in listed if one.filename.casefold() == path.name.casefold()]
    if model.folder:
        named = [one for one in named if one.kind in (None, model.folder.partition("/")[0])]
    own_list_only = facts.manager in _OWN_LIST_ONLY
    if not entries and (url is None or own_list_only):
        entries = named
    if len({one.url for one in entries}) > 1 and url is None:
        urls = _listed([one.url for one in entries])
        text = f"{brief(model.name)} is the name of several models: download the right one: {urls}"
        return Obstacle("several_urls", model.name, text)
    entry = entries[0] if len({one.url for one in entries}) == 1 else None
    url = entry.url if entry and (url is None or own_list_only) else url
    folder = model.folder or (entry.kind if entry else None)
    if url is None:
        return _without_url(model, folder, unused)
    return _obstacle_to(model, url, folder, entry, facts) or _planned(
        model, path, url, folder or "", entry, facts
    )


def _without_url(model: MissingModel, folder: str | None, unused: str | None) -> Obstacle:
    name = brief(model.name)
    text = f"neither the workflow nor the Manager's lists say where {name} can be downloaded"
    if unused:
        text = f"the URL that the workflow has for {name} is not used, as {UNUSED[unused]}"
    return Obstacle("no_url", model.name, f"{text}: get it, and copy it {_place(folder)}")


def _place(folder: str | None) -> str:
    return f"to models/{folder}" if folder else "to the folder of its loader"


def _planned(
    model: MissingModel,
    path: PurePosixPath,
    url: str,
    folder: str,
    entry: KnownModel | None,
    facts: ServerFacts,
) -> PlannedModel:
    where, name = PurePosixPath(folder) / path.parent, path.name
    if entry is not None and facts.manager in _OWN_LIST_ONLY:  # whole entries of it
        name, where = entry.filename, PurePosixPath(entry.save_path if entry.kind else folder)
    value = PurePosixPath(*where.parts[1:], name)
    is_same = str(value) == str(path)
    return PlannedModel(
        name=name,
        folder=str(where),
        url=url,
        size=entry.size if entry else None,
        value=model.name if is_same else str(value),
        places=((model.node_id, model.input),),
    )


def _obstacle_to(
    model: MissingModel,
    url: str,
    folder: str | None,
    entry: KnownModel | None,
    facts: ServerFacts,
) -> Obstacle | None:
    """Return why a model cannot be downloaded; None if it can."""
    name, to = brief(model.name), _place(folder)
    if facts.manager is None:
        text = f"download {name} {to} from {url}: {_GET_MANAGER}"
        return Obstacle("no_manager", model.name, text)
    if _is_page(url):
        text = f"{url} is a page, not a file: download {name} there, and copy it {to}"
        return Obstacle("page", model.name, text)
    if folder is None:
        text = f"nothing says which folder {name} belongs to: download it from {url}"
        return Obstacle("no_folder", model.name, text)
    if entry is None and not _is_model(model.name, folder):
        text = (
            f"{name} for models/{folder} may be a part of a program, and anybody may have written "
            f"the workflow: look at {url}, and copy it there yourself if you trust it"
        )
        return Obstacle("no_model", model.name, text)
    if facts.manager in _OWN_LIST_ONLY and entry is None:
        text = (
            f"this Manager downloads models of its own list only: download {name} {to} from {url}, "
            f"or use Manager 4 with its new page"
        )
        return Obstacle("not_listed", model.name, text)
    return None


def _is_model(name: str, folder: str) -> bool:
    """Return whether a file that only the workflow names is no program, nor becomes a part of one.

    Manager 4 downloads any file, unpacks ``.zip``, and takes folders of node packs, too.
    """
    is_data = name.lower().endswith((*_MODEL_ENDINGS, *_DATA_ENDINGS))
    return is_data and not folder.lower().startswith(_CODE)


def _file_url(url: str | None) -> str | None:
    """Return the URL of a file for that of its page on Hugging Face."""
    if url is not None and urlsplit(url).hostname in ("huggingface.co", "www.huggingface.co"):
        return url.replace("/blob/", "/resolve/", 1)
    return url


def _is_page(url: str) -> bool:
    """Return whether a URL is the page of a model on Civitai."""
    parts = urlsplit(url)
    is_civitai = (parts.hostname or "").removeprefix("www.") == "civitai.com"
    return is_civitai and not parts.path.startswith("/api/")


def _listed(names: Iterable[str]) -> str:
    shown = [shorten(name, 200) for name in names]
    more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return ", ".join(shown[:_MOST]) + more


def kinds_in(needs: WorkflowNeeds) -> set[str]:
    """Return the kinds of models whose files must be known for a plan."""
    return {one.folder.partition("/")[0] for one in needs.declared if one.folder}
