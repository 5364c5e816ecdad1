"""The pages that Sphinx reads: README, guide with pictures, and a reference of the docstrings."""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import docutils.nodes

import comfy_client
from comfy_client import ComfyApi, aio, distributed, ext, models, testing
from tests.guide import GUIDE, PAGES, document, public_names, text_of

#: The pages of the guide in their order.  A page that stands in no group follows in the last one.
GROUPS = {
    "First steps": ["start", "tasks", "running", "recipes", "typescript", "windows"],
    "Everyday use": [
        *(
            "workflows",
            "checking",
            "ci",
            "provide",
            "building",
            "files",
            "notebook",
            "jobs",
            "many-runs",
        ),
        *("events", "errors", "command-line", "command-line-servers", "command-line-scripts"),
    ],
    "Servers": [
        *("connecting", "manager", "hosted", "hosted-waiting", "doctor", "pool"),
        *("pool-faults", "cluster", "cluster-setup", "security", "limits"),
    ],
    "Programs": [
        *("service", "asyncio", "service-recipes", "testing", "testing-faults", "fake-server"),
        *("fake-manager", "node-packs", "recording", "json", "monitoring", "mcp"),
    ],
    "Project": [
        *("compatibility", "fidelity", "speed", "faults"),
        *("changes", "development", "inside", "releasing"),
    ],
}

#: Groups of the reference: title, and the page of the guide that explains them.
_TITLES = {
    "client": ("Client and signals", "running"),
    "credentials": ("Credentials", "connecting"),
    "workflow": ("Workflows", "workflows"),
    "jobs": ("Jobs and results", "jobs"),
    "events": ("Events", "events"),
    "errors": ("Errors", "errors"),
    "doctor": ("Doctor", "doctor"),
    "pool": ("Several servers", "pool"),
    "hosted": ("Hosted ComfyUI", "hosted"),
    "aio": ("asyncio", "asyncio"),
    "distributed": ("Workers of Dask", "cluster"),
    "ext": ("Node packs of the server", "manager"),
    "models": ("Answers of the server", "compatibility"),
    "testing": ("Testing", "testing"),
}
_HOMES = {"batch": "jobs"}
#: Variables of the guide's examples.
_VARIABLES = {
    "api": "ComfyApi",
    "cloud": "CloudApi",
    "pool": "ComfyPool",
    "job": "Job",
    "result": "Result",
    "image": "OutputFile",
    "rows": "Sweep",
    "row": "SweepRow",
    "server": "testing.ComfyServer",
    "workflow": "Workflow",
    "wf": "Workflow",
}
#: Pages that name objects without explaining them.
_LISTS = {
    *("README", "changes", "compatibility", "fidelity", "development"),
    *("inside", "releasing", "tasks"),
}
#: Pages for those who work on the package, which the search leaves out.
_UNSEARCHED = {"changes", "development", "inside", "releasing"}


class Picture(NamedTuple):
    """A picture of ``tests/docs/pictures``, and the section of the guide that it follows."""

    name: str
    page: str
    section: str
    alt: str


#: Made by ``python -m tests.docs.take_pictures``.
PICTURES = [
    Picture(
        *("notebook.png", "notebook", "While it runs"),
        "A notebook: three lines of code, the preview of a picture, a progress bar, the time left",
    ),
    Picture(
        *("notebook-gallery.webp", "notebook", "Values that show themselves"),
        "A cell that ran a workflow: two pictures, their file names, seed and time",
    ),
    Picture(
        *("notebook-sweep.webp", "notebook", "Values that show themselves"),
        "A cell that ran a sweep: small pictures in two rows and four columns with their values",
    ),
    Picture(
        *("notebook-error.webp", "errors", "Errors"),
        "A cell that failed: the line, and which inputs are wrong, with the nearest valid value",
    ),
    Picture(
        *("sheet.webp", "many-runs", "Files, tables and a contact sheet"),
        "A contact sheet: fifteen pictures in rows by cfg and columns by seed",
    ),
    Picture(
        *("terminal-run.svg", "command-line", "Command line"),
        "A terminal: check finds no problems, run shows a progress bar",
    ),
    Picture(
        *("terminal-sweep.svg", "command-line", "Output"),
        "A terminal: sweep prints a line with values and file for each of six rows",
    ),
    Picture(
        *("terminal-queue.svg", "command-line", "Jobs"),
        "A terminal: queue lists three prompts, cancel stops one, queue lists the others",
    ),
    Picture(
        *("terminal-doctor.svg", "doctor", "When it does not connect: the doctor"),
        "A terminal: doctor prints a line for each of 22 checks",
    ),
]
FOLDER = Path(__file__).with_name("pictures")

#: Words that readers look for, by the section that explains them, which the search shows first.
WORDS = {
    ("start", "Install"): "install, pip, extra",
    ("running", "Run"): "run, progress, callback",
    ("running", "Previews"): "preview, live preview",
    ("recipes", "Image to image"): "img2img, image to image",
    ("recipes", "Inpainting"): "inpaint, inpainting",
    ("recipes", "ControlNet"): "controlnet",
    ("recipes", "Upscaling"): "upscale, upscaling",
    ("recipes", "LoRA"): "lora",
    ("recipes", "Video"): "video",
    ("recipes", "Audio"): "audio, music, sound",
    ("recipes", "Prompts from a CSV file"): "csv",
    ("workflows", "Edit"): "seed, random seed, prompt",
    ("ci", "GitHub Actions"): "github, pull request",
    ("ci", "pre-commit"): "pre-commit, hook",
    ("checking", "Missing node packs"): "custom node, node pack, ComfyUI-Manager, missing node",
    ("checking", "Missing models"): "model, missing model, checkpoint",
    ("building", "Templates"): "template",
    ("files", "Masks"): "mask",
    ("files", "Upload"): "upload",
    ("files", "Download"): "download",
    ("jobs", "Stop a job"): "cancel, interrupt, stop",
    ("jobs", "Attach to a job later"): "attach, reconnect",
    ("many-runs", "map"): "batch",
    ("events", "Signals"): "signal, blinker",
    ("errors", "Codes, and another try"): "retry",
    ("errors", "What each time means"): "timeout, limit",
    ("command-line", "Jobs"): "queue",
    ("connecting", "Credentials"): "login, password, token",
    ("connecting", "Arguments"): "proxy, https, tls, certificate",
    ("hosted", "Hosted servers"): "comfy cloud, cloud, serverless",
    ("hosted", "Keys"): "api key, key",
    ("doctor", "Report a bug"): "bug, report",
    ("pool", "Several servers"): "gpu, multi-gpu, load balancing",
    ("asyncio", "asyncio"): "async, await",
    ("asyncio", "FastAPI"): "web server, rest",
    ("service", "Out of memory"): "memory, oom, vram",
    ("service", "Containers and SIGTERM"): "docker, kubernetes, container",
    ("service-recipes", "Webhook"): "webhook, callback url",
    ("service-recipes", "Results to S3"): "s3, storage, bucket, boto3",
    ("service-recipes", "Serverless with ComfyUI inside"): "runpod, lambda",
    ("service-recipes", "Docker Compose"): "docker-compose, compose",
    ("testing", "Use it"): "mock, pytest, fixture",
    ("testing-faults", "Time"): "sleep, pause, step",
    ("fake-server", "A fake ComfyUI for your tests"): "fake, stub, simulator",
    ("manager", "Node packs and the Manager"): "custom nodes, comfyui-manager, install a pack",
    ("manager", "Restart"): "reboot, restart",
    ("monitoring", "Prometheus"): "metrics",
    ("monitoring", "Logs"): "log, logging",
    ("monitoring", "The machine of a server"): "crystools, gpu temperature, monitor",
}


class Entry(NamedTuple):
    """A public object: its name, its module, its group, and its page."""

    name: str
    module: ModuleType
    group: str

    @property
    def path(self) -> str:
        """Its name with the module that users import it from."""
        return f"{self.module.__name__}.{self.name}"

    @property
    def page(self) -> str:
        """Its file in the folder ``api``, without suffix."""
        return self.path.removeprefix("comfy_client.")


@cache
def reference() -> list[Entry]:
    """Return every public object."""
    entries = []
    for name in public_names(comfy_client):
        if not name.startswith("__"):
            room = getattr(comfy_client, name).__module__.split(".")[1]
            room = _HOMES.get(room, room)
            entries.append(Entry(name, comfy_client, room if room in _TITLES else "client"))
    for group, module in _MODULES.items():
        names = (name for name in module.__all__ if name not in public_names(comfy_client))
        entries += [Entry(name, module, group) for name in names]
    return entries


#: Blocks that name no language are commands and texts, but for those of docstrings.
_PLAIN = ".. highlight:: none\n\n"
_MODULES = {
    "aio": aio,
    "distributed": distributed,
    "ext": ext,
    "models": models,
    "testing": testing,
}


def write(folder: Path) -> None:
    """Write what Sphinx reads: the README as the first page, the guide, the reference."""
    for file in [*FOLDER.glob("*.*"), *GUIDE.parent.glob("*.json")]:
        folder.joinpath(file.name).write_bytes(file.read_bytes())
    groups = guide()
    for page in chain.from_iterable(groups.values()):
        folder.joinpath(f"{page}.rst").write_text(source(page), encoding="utf-8")
    index = _PLAIN + linked(text_of("README"))
    index += "".join(contents(caption, pages) for caption, pages in groups.items())
    index += contents("Reference", [*(f"api/{group}" for group in _TITLES), "genindex"])
    folder.joinpath("index.rst").write_text(index, encoding="utf-8")
    api = folder / "api"
    api.mkdir()
    for group in _TITLES:
        api.joinpath(f"{group}.rst").write_text(overview(group), encoding="utf-8")
    for entry in reference():
        api.joinpath(f"{entry.page}.rst").write_text(explained(entry), encoding="utf-8")


def source(page: str) -> str:
    """Return what Sphinx reads of a page of the guide."""
    metadata = ":nosearch:\n\n" if page in _UNSEARCHED else ""
    return metadata + _PLAIN + linked(illustrated(page))


def guide() -> dict[str, list[str]]:
    """Return the pages of the guide by group."""
    grouped = {page for pages in GROUPS.values() for page in pages}
    rest = [page for page in PAGES if page not in grouped | {"README"}]
    *_, last = GROUPS
    return {**GROUPS, last: [*GROUPS[last], *rest]}


def linked(text: str) -> str:
    """Return a page with its links and pictures as Sphinx writes them."""
    text = re.sub(r"^\.\. image:: (?:.*/)?(\S+)\n((?:   .*\n)+)", _image, text, flags=re.MULTILINE)
    text = re.sub(r"<(?:comfy_client/guide/)?([\w-]+)\.rst(#[\w-]+)>`__", r"<\1.html\2>`__", text)
    text = re.sub(r"(`[^`<]+)<\.\./([\w-]+\.json)>`__", r":download:\1<\2>`", text)
    return re.sub(r"(`[^`<]+)<(?:comfy_client/guide/)?([\w-]+)\.rst>`__", r":doc:\1<\2>`", text)


def _image(found: re.Match[str]) -> str:
    """Return the directive of a picture, or of two: for light pages, and for dark ones."""
    name, options = found.groups()
    dark = f"{Path(name).stem}-dark.webp"
    if not FOLDER.joinpath(dark).is_file():
        return f".. image:: {name}\n{options}"
    pair = ((name, "only-light"), (dark, "only-dark"))
    return "\n".join(
        f".. image:: {one}\n{options.replace(name, one)}   :class: {kind}\n" for one, kind in pair
    )


def illustrated(page: str) -> str:
    """Return a page of the guide with its pictures and entries of the index, below their titles."""
    lines = text_of(page).splitlines()
    for (of_page, section), words in WORDS.items():
        if of_page == page:
            at = line_below(section, lines)
            main = ", ".join(f"! {word}" for word in words.split(", "))
            lines[at:at] = ["", f".. index:: {main}", ""]
    for picture in PICTURES:
        if picture.page == page:
            at = line_below(picture.section, lines)
            link = f"   :target: _images/{picture.name}"  # at its full size, for narrow screens
            lines[at:at] = ["", f".. image:: {picture.name}", f"   :alt: {picture.alt}", link, ""]
    return "\n".join([*lines, ""])


def line_below(title: str, lines: list[str]) -> int:
    """Return the line after the title of a section."""
    titles = (at for at, line in enumerate(lines) if line == title)
    return next(at + 2 for at in titles if re.fullmatch(r"(.)\1{2,}", lines[at + 1]))


def contents(caption: str, pages: list[str]) -> str:
    """Return a table of contents that only the sidebar shows."""
    lines = ["", ".. toctree::", "   :hidden:", f"   :caption: {caption}".rstrip(" :"), ""]
    return "\n".join([*lines, *(f"   {page}" for page in pages), ""])


# -- the reference ------------------------------------------------------------------------


def overview(group: str) -> str:
    """Return the page of a group: a table of its objects, with the first sentence of each."""
    title, page = _TITLES[group]
    entries = [entry for entry in reference() if entry.group == group]
    lines = [title, "=" * len(title), "", f"In the guide: {link(page)}", ""]
    lines += [".. list-table::", "   :widths: 30 70", ""]
    for entry in entries:
        lines += [f"   * - :py:obj:`{entry.name} <{entry.path}>`", f"     - {summary(entry)}"]
    tree = ["", ".. toctree::", "   :hidden:", "", *(f"   {entry.page}" for entry in entries)]
    return "\n".join([*lines, *tree, ""])


def explained(entry: Entry) -> str:
    """Return the page of an object: where the guide tells of it, and its docstring."""
    value, title = getattr(entry.module, entry.name), entry.name
    if inspect.isfunction(value):
        lines = [f".. autofunction:: {entry.path}"]
    elif not inspect.isclass(value):
        text = comment(entry.module, entry.name)
        lines = [f".. py:data:: {entry.name}", f"   :module: {entry.module.__name__}", ""]
        lines += [f"   {line}" for line in text]
    elif issubclass(value, BaseException):
        lines = [f".. autoexception:: {entry.path}", "   :members:", "   :show-inheritance:"]
    else:
        elsewhere = ["Future", "Mapping", "WorkerPlugin", "dict", "object"]
        lines = [f".. autoclass:: {entry.path}", "   :members:"]
        if clients := _clients_above(value):
            elsewhere += clients
            lines.append("   :show-inheritance:")
        lines.append("   :inherited-members: " + ", ".join(elsewhere))
    told = ", ".join(mentions(entry))
    return "\n".join([title, "=" * len(title), "", f"In the guide: {told}", "", *lines, ""])


def _clients_above(kind: type) -> list[str]:
    """Return the names of a client's bases whose members stand on the page of another client."""
    above = kind.__mro__[1:]
    first = next((at for at, base in enumerate(above) if object_of(base.__name__)), len(above))
    return [base.__name__ for base in above[first:]] if issubclass(kind, ComfyApi) else []


def summary(entry: Entry) -> str:
    """Return the first sentence about an object."""
    value = getattr(entry.module, entry.name)
    if inspect.isfunction(value) or inspect.isclass(value):
        lines = (inspect.getdoc(value) or "").splitlines()
    else:
        lines = comment(entry.module, entry.name)
    paragraph = " ".join(lines[: lines.index("")] if "" in lines else lines)
    return re.split(r"(?<=[^.]\.) ", paragraph.rstrip(":"))[0]


def comment(module: ModuleType, name: str) -> list[str]:
    """Return what stands above a constant where it is defined."""
    from sphinx.pycode import ModuleAnalyzer

    rooms = [room for room in sys.modules if room.startswith(f"{module.__name__}.")]
    comments = (ModuleAnalyzer.for_module(room).find_attr_docs() for room in sorted(rooms))
    return next(found["", name] for found in comments if ("", name) in found)


# -- links between guide and reference ----------------------------------------------------


def link(page: str, section: str = "", anchor: str = "") -> str:
    """Return a link from the reference to a page or a section of the guide."""
    if not section:
        return f":doc:`/{page}`"
    title = document(page).next_node(docutils.nodes.title)
    text = title.astext() if title else page
    return f"`{text}: {section} <../{page}.html#{anchor}>`__"


def mentions(entry: Entry, most: int = 4) -> list[str]:
    """Return links to the page that explains an object, and to sections that name it.

    Of each page, that is the section that names it most often.
    """
    home = _TITLES[entry.group][1]
    best = {home: (0, link(home))}
    for (page, section, anchor), names in _sections().items():
        count = names[entry.path]
        if count > best.get(page, (0, ""))[0]:
            best[page] = (count, link(page, section, anchor))
    pages = sorted(best, key=lambda page: (page != home, -best[page][0]))
    return [best[page][1] for page in pages[:most]]


@cache
def _sections() -> dict[tuple[str, str, str], Counter[str]]:
    """Return which objects each section of the guide names, and how often."""
    pages = [page for page in chain.from_iterable(guide().values()) if page not in _LISTS]
    return {
        (page, section, anchor): Counter(names)
        for page in pages
        for section, anchor, names in _named_in(page)
    }


def _named_in(page: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each section of a page: its title, unless it is the page's, its anchor, its names."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in document(page).findall(docutils.nodes.Text):
        literal = node.parent
        if not isinstance(literal, docutils.nodes.literal | docutils.nodes.literal_block):
            continue
        section = literal.parent
        while not isinstance(section, docutils.nodes.section | docutils.nodes.document):
            section = section.parent
        title = section.next_node(docutils.nodes.title)
        is_page = section.parent is None or isinstance(section, docutils.nodes.document)
        key = ("", "") if is_page or not title else (title.astext(), section["ids"][0])
        words = re.findall(r"[\w.]+", node.astext())
        objects = (name for word in words if (name := object_of(word)))
        found.setdefault(key, []).extend(objects)
    for (title_text, anchor), names in found.items():
        yield title_text, anchor, names


@cache
def _objects() -> dict[str, str]:
    """Return the full names of objects by the words for them."""
    full = {entry.page: entry.path for entry in reference()}
    short = Counter(entry.name for entry in reference())
    capital = {
        entry.name: entry.path
        for entry in reference()
        if short[entry.name] == 1 and (entry.name[0].isupper() or entry.module is comfy_client)
    }
    return {**capital, **full}


def object_of(word: str) -> str | None:
    """Return the full name of the object that a word of code stands for, if any."""
    return _objects().get(word)


def target_of(code: str) -> str | None:
    """Return the full name of what a piece of code in a text names, if that is in the reference.

    ``ComfyPool``, ``api.run`` and ``result.save("out/")`` do, ``KSampler`` does not.
    """
    match = re.fullmatch(r"([A-Za-z_][\w.]*)(?:\(.*\))?", code, re.DOTALL)
    if not match:
        return None
    name = match[1]
    if target := object_of(name):
        return target
    owner, _, member = name.rpartition(".")
    home = object_of(_VARIABLES.get(owner, owner))
    if home is None or member.startswith("_"):
        return None
    module, _, kind = home.rpartition(".")
    holder = getattr(sys.modules[module], kind)
    if not (inspect.isclass(holder) and (hasattr(holder, member) or is_field(holder, member))):
        return None
    if issubclass(holder, ComfyApi) and hasattr(ComfyApi, member) and member not in vars(holder):
        home = "comfy_client.ComfyApi"  # the page of a subclass shows what is its own
    return f"{home}.{member}"


def is_field(kind: type, name: str) -> bool:
    """Whether the docstring of a class explains this field of its instances."""
    return bool(re.search(rf"^    {name}: ", inspect.getdoc(kind) or "", re.MULTILINE))
