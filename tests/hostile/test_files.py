"""Whatever a server calls its files, nothing outside the folder is written, nor what is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from comfy_client import ComfyApi
from comfy_client.cli.main import main
from comfy_client.jobs.result import Result, make_result
from comfy_client.testing import ComfyServer
from comfy_client.transport.local_files import IfExists, distinct_names, write_atomically
from tests.conftest import examples
from tests.helpers.clients import LIMIT
from tests.helpers.command_line import runner
from tests.hostile.server import GRAPH, Comfy, Request, answer
from tests.hostile.test_bounds import within

RULES: tuple[IfExists, ...] = get_args(IfExists)
NEW = b"sent by the server"
THERE = b"was there before"


@pytest.fixture
def server() -> Iterator[Comfy]:
    with Comfy() as server:
        server.content = NEW
        yield server


@pytest.fixture
def api(server: Comfy) -> Iterator[ComfyApi]:
    with ComfyApi(server.url, transport="poll") as api:
        yield api


class Place:
    """A folder to save in, with all that may lie in one, and what lies outside of it."""

    def __init__(self, root: Path) -> None:
        self.out, self.outside = root / "out", root / "outside"
        self.out.mkdir()
        self.outside.mkdir()
        for folder in (self.outside, self.out, self.out / "folder"):
            folder.mkdir(exist_ok=True)
            for name in ("a.png", "b.png"):
                (folder / name).write_bytes(THERE)
        (self.out / "latest").symlink_to("../outside")
        (self.out / "up").symlink_to("..")
        (self.out / "file.png").symlink_to("../outside/a.png")
        (self.out / "nowhere.png").symlink_to("../outside/none.png")
        os.mkfifo(self.out / "pipe.png")  # whoever opens it waits
        self.before = set(tree(root))
        self.root = root

    def check(
        self, written: list[Path], rule: IfExists | None, *, in_folders: bool = False
    ) -> None:
        """Only files of the folder itself are new, and only ``"overwrite"`` replaced any."""

        def is_ours(path: Path) -> bool:
            return path.is_relative_to(self.out) if in_folders else path.parent == self.out

        after = tree(self.root)
        for path, *what in set(after) ^ self.before:
            assert is_ours(path), (path, what)
        if rule != "overwrite":
            assert set(after) >= self.before
        for path in written:
            assert is_ours(path)
            if (path, "file", NEW) not in after:
                assert rule == "skip"
                assert path in {before for before, *_ in self.before}
        assert sum(entry[0].name.endswith(".part") for entry in after) == 0


def tree(root: Path) -> list[tuple[Any, ...]]:
    """Each path below, and what it is; no link is followed."""
    found: list[tuple[Any, ...]] = []
    for at, folders, names in os.walk(root):
        for path in (Path(at, name) for name in [*folders, *names]):
            if path.is_symlink():
                found.append((path, "link", os.readlink(path)))
            elif path.is_dir():
                found.append((path, "folder"))
            elif path.is_file():
                found.append((path, "file", path.read_bytes()))
            else:
                found.append((path, "pipe"))
    return found


@contextlib.contextmanager
def new_place() -> Iterator[Place]:
    root = Path(tempfile.mkdtemp()).resolve()
    try:
        yield Place(root)
    finally:
        shutil.rmtree(root)


def named(api: ComfyApi, *refs: Any) -> Result:
    """A result with files that a server calls so."""
    whole = [{"filename": ref} if isinstance(ref, str) else ref for ref in refs]
    return make_result("id", GRAPH, {"9": {"images": whole}}, files=api)


# -- any name -------------------------------------------------------------------------------

OLD = [
    "a.png",
    "b.png",
    "pipe.png",
    "latest",
    "up",
    "folder",
    "file.png",
    "nowhere.png",
    "out",
    "outside",
]
ODD = [
    "..",
    ".",
    "",
    "~",
    "C:",
    "\x00",
    "\n",
    " ",
    "%2e%2f",
    "\uff0f",
    "\ud800",
    "\u200e",
    "\u061c",
]
EQUAL = ["A.PNG", "a (1).png", "latest (1)", "con.png", "e\u0301", "\u00e9", "x" * 300]
PARTS = st.sampled_from([*OLD, *ODD, *EQUAL])
PATHS = st.one_of(
    st.sampled_from(OLD),
    st.lists(PARTS, max_size=4).map("".join),
    st.lists(PARTS, max_size=5).map("/".join),
    st.lists(PARTS, max_size=5).map("\\".join),
    st.text(max_size=12),
)
VALUES = st.one_of(PATHS, st.sampled_from(["output", "temp", "input", None, 1, [], {}]))
REFS = st.fixed_dictionaries({"filename": VALUES}, optional={"subfolder": VALUES, "type": VALUES})


@given(st.lists(REFS, max_size=6), st.sampled_from([None, *RULES]), st.booleans())
@example([{"filename": "latest"}], "overwrite", False)
@example([{"filename": "pipe.png"}], "overwrite", True)
@example([{"filename": "folder"}, {"filename": "folder (1)"}], "overwrite", False)
@example([{"filename": "a.png", "subfolder": "../../outside"}], None, True)
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_save_writes_nothing_outside_its_folder(
    api: ComfyApi, refs: list[Any], rule: IfExists | None, each: bool
) -> None:
    """Names, folders and types as a server likes, in a folder with links to all sides."""
    with new_place() as place:
        result = named(api, *refs)
        if not each:
            written = result.save(place.out, if_exists=rule)
            assert len(set(written)) == len(result.files)
        else:
            written = []
            for item in result.files:
                with contextlib.suppress(IsADirectoryError):  # its own name, and "overwrite"
                    written.append(item.save(f"{place.out}/", if_exists=rule))
        place.check(written, rule)


# -- any value in a template ----------------------------------------------------------------

FIELDS = st.sampled_from(["{name}", "{ext}", "{node}", "{seed}", "{index}", "{T.text}"])
#: What stands before the first field is the caller's own, and may lead anywhere.
TEMPLATES = st.lists(
    st.lists(st.one_of(FIELDS, st.sampled_from([".", "..", "a", " ", "{{"])), max_size=3).map(
        "".join
    ),
    min_size=1,
    max_size=3,
).flatmap(lambda parts: FIELDS.map(lambda first: first + "/".join(parts)))


@given(
    st.lists(REFS, min_size=20, max_size=40),
    TEMPLATES,
    VALUES,
    st.text(max_size=8),
    st.sampled_from([None, *RULES]),
)
@example([{"filename": "latest"}, {"filename": "up"}], "{name}/a.png", "", "", "overwrite")
@example([{"filename": "a.png"}], "{node}/{T.text}.png", "..", "../outside", "overwrite")
@example([{"filename": "a.png"}], "{T.text}{T.text}/a.png", ".", "", "overwrite")
@example([{"filename": "folder"}], "{name}/", "", "", None)
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_template_leads_astray(
    comfy: ComfyServer,
    refs: list[Any],
    template: str,
    text: Any,
    title: str,
    rule: IfExists | None,
) -> None:
    """Whatever stands in names, titles and inputs; thousands of files in all, four at a time."""
    comfy.on("GET", "/view", (200, {}, NEW))
    graph = {
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": title}},
        "1": {"class_type": "T", "inputs": {"text": text, "seed": 7}},
    }
    with new_place() as place, ComfyApi(comfy.url, transport="poll") as api:
        result = make_result("id", graph, {"9": {"images": refs}}, files=api)
        try:
            written = result.save(f"{place.out}/{template}", if_exists=rule)
        except (ValueError, IsADirectoryError):
            written = []  # '..' behind a field; nothing to replace
        else:
            assert len(set(written)) == len(result.files)
        place.check(written, rule, in_folders=True)


# -- links and folders ----------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("name", ["latest", "up", "folder"])
def test_a_folder_or_a_link_to_one_is_not_taken_for_the_place(
    server: Comfy, api: ComfyApi, name: str, rule: IfExists | None
) -> None:
    """The file gets a number beside it, also where old files are replaced or kept."""
    server.outputs = {"9": {"images": [{"filename": name}, {"filename": f"{name} (1)"}]}}
    with new_place() as place:
        result = api.run(GRAPH)
        first = result.save(place.out, if_exists=rule)
        assert [path.name for path in first] == [f"{name} (1)", f"{name} (1) (1)"]
        assert [path.read_bytes() for path in first] == [NEW, NEW]
        again = result["SaveImage"].save(place.out, if_exists=rule)
        assert (again == first) is (rule in ("overwrite", "skip"))
        place.check([*first, *again], rule)


def test_a_folder_may_be_a_link_if_the_user_says_so(api: ComfyApi) -> None:
    """Who names a link means where it leads."""
    with new_place() as place:
        [path] = named(api, "new.png").save(place.out / "latest")
        assert path == place.out / "latest" / "new.png"
        assert (place.outside / "new.png").read_bytes() == NEW
        path = named(api, "newer.png").images[0].save(place.out / "latest")
        assert (place.outside / "newer.png").read_bytes() == NEW


@pytest.mark.parametrize("rule", RULES)
def test_a_link_that_appears_while_another_file_comes_is_not_taken_for_the_place(
    server: Comfy, api: ComfyApi, rule: IfExists
) -> None:
    """The names are chosen before the first file is fetched."""
    linked = threading.Event()
    with new_place() as place:

        def view(request: Request) -> bytes:
            if "first" in request.query:
                (place.out / "second.png").symlink_to("../outside")
                linked.set()
            assert linked.wait(LIMIT)  # both are asked for at once
            return answer(200, NEW)

        server.lies = {"GET /view": view}
        result = named(api, "first.png", "second.png")
        if rule == "overwrite":
            with pytest.raises(IsADirectoryError):
                result.save(place.out, if_exists=rule)
        else:
            paths = result.save(place.out, if_exists=rule)
            assert paths[1].name == ("second.png" if rule == "skip" else "second (1).png")
        assert sorted(path.name for path in place.outside.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("goal", ["../outside", "../outside/a.png", "../outside/none.png"])
def test_a_link_that_appears_meanwhile_leads_nowhere(rule: IfExists, goal: str) -> None:
    """Between the look at the name and the end of the download."""
    with new_place() as place:
        target = place.out / "c.png"

        def chunks() -> Iterator[bytes]:
            yield NEW
            target.symlink_to(goal)

        path = write_atomically(target, chunks(), if_exists=rule)
        assert path == (target.with_name("c (1).png") if rule == "number" else target)
        assert target.is_symlink() is (rule != "overwrite")
        assert {entry for entry in tree(place.root) if entry[0].parent != place.out} == {
            entry for entry in place.before if entry[0].parent != place.out
        }


@pytest.mark.parametrize("rule", RULES)
def test_a_folder_that_becomes_a_link_while_a_file_comes_leads_nowhere(rule: IfExists) -> None:
    """Somebody else moves it away, and puts a link in its place."""
    with new_place() as place:
        target = place.out / "folder" / "c.png"

        def chunks() -> Iterator[bytes]:
            yield NEW
            target.parent.rename(place.out / "moved")
            target.parent.symlink_to("../outside")
            yield NEW

        with pytest.raises(FileNotFoundError):
            write_atomically(target, chunks(), if_exists=rule)
        assert sorted(path.name for path in place.outside.iterdir()) == ["a.png", "b.png"]


def test_the_demo_does_not_follow_a_link_of_its_pictures_name(
    server: Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that somebody else has filled."""
    monkeypatch.delenv("COMFYUI_TOKEN", raising=False)
    info = {
        "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["m.safetensors"]]}}},
    }
    server.lies = {"GET /object_info": lambda _: answer(200, info)}
    server.outputs = {"9": {"images": [{"filename": "new.png"}]}}
    with new_place() as place:
        (place.out / "comfy-client-demo.png").symlink_to("../outside")
        options = ["--host", server.url, "--output", str(place.out)]
        run = runner().invoke(main, ["demo", *options])
        assert run.exit_code == 0, run.output
        assert sorted(path.name for path in place.outside.iterdir()) == ["a.png", "b.png"]
        assert (place.out / "comfy-client-demo (1).png").read_bytes() == NEW


# -- equal names ----------------------------------------------------------------------------


def never(_: str) -> bool:
    return False


#: How file systems compare names: Windows by capitals, macOS by either and without regard to
#: which code points write a letter, and POSIX by the bytes.
COMPARED = [
    str,
    str.lower,
    str.upper,
    str.casefold,
    *(lambda name, form=form: unicodedata.normalize(form, name) for form in ("NFC", "NFD")),
    lambda name: unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()),
    lambda name: unicodedata.normalize("NFC", name.upper()),
]
LETTERS = st.text(
    "aA\u00e9\u00c9e\u0301\u00df\u1e9esSi\u0131I\u0130kK\u212a\u03c3\u03c2\u0345 .()1"
)
NAMES = st.lists(st.one_of(LETTERS, LETTERS.map("{}.png".format), st.text(max_size=3)), max_size=9)


@given(NAMES)
@example(["\u00e9.png", "e\u0301.png", "\u00c9.PNG", "E\u0301.png"])
@example(
    ["stra\u00dfe", "STRASSE", "STRA\u1e9eE", "\u0131", "I", "\u212a", "k", "\u03f4", "\u03b8"]
)
@example(["a.png", "a.png.", "a.png ", "./a.png", "A.png", "con", "CON.", "_con"])
@example(["a", "a", "a (1)", "a (1)", "A (2)", "a"])
def test_names_that_are_equal_to_some_file_system_are_numbered(names: list[str]) -> None:
    """On each system alike, so the same result has the same names wherever it is saved."""
    found = distinct_names(names, never)
    for same in COMPARED:
        assert len({same(name) for name in found}) == len(names)
    assert distinct_names(names, never) == found


@pytest.mark.parametrize("rule", ["number", "overwrite"])
def test_no_picture_is_lost_by_a_name_in_another_normal_form(api: ComfyApi, rule: IfExists) -> None:
    """As on Linux, which tells them apart, so where none does."""
    names = ["caf\u00e9.png", "cafe\u0301.png", "CAF\u00c9.png"]
    with new_place() as place:
        paths = named(api, *names).save(place.out, if_exists=rule)
        assert [path.name for path in paths] == [
            names[0],
            "cafe\u0301 (1).png",
            "CAF\u00c9 (2).png",
        ]


def test_thousands_of_equal_names_take_no_time() -> None:
    """Not that of all others for each."""
    names = ["a.png", "A.PNG"] * 3000
    with within(1.5):
        found = distinct_names([*(f"a ({n}).png" for n in range(2000)), *names], never)
    assert len(set(found)) == 8000
