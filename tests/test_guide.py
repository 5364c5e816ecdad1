"""README and guide are true: blocks run, links lead somewhere, tables are complete."""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import docutils.core
import docutils.nodes
import pytest
from distributed import LocalCluster
from PIL import Image

import comfy_client
from comfy_client import ComfyApi, event_queue, to_dict, values
from comfy_client.batch import journal, sheet
from comfy_client.cli.main import main
from comfy_client.distributed import run_workflow
from comfy_client.doctor.examine import ADVISED
from comfy_client.events import NAMES
from comfy_client.jobs import gallery
from comfy_client.jobs import result as outputs
from comfy_client.recording import recorder as recording
from comfy_client.recording import secrets as redaction
from comfy_client.routes import definitions
from comfy_client.showing import thumbnails
from comfy_client.since import SINCE
from comfy_client.testing import ComfyServer, Faults, Manager4
from comfy_client.to_dict import code_of
from comfy_client.transport import connections, dial, http, pieces
from comfy_client.transport import decode as wire
from comfy_client.transport import local_files as saving
from comfy_client.workflow.convert import converting, links
from comfy_client.workflow.metadata import stream
from tests.comfyui import ComfyUI
from tests.conftest import WORKFLOWS, load_workflow
from tests.contract.test_differential import USUAL
from tests.floors import FLOORS, constraints
from tests.guide import (
    PAGES,
    README,
    STAND_INS,
    Block,
    blocks,
    document,
    examples,
    section_of,
    text_of,
)
from tests.helpers import conformance
from tests.helpers.command_line import runner
from tests.helpers.graphs import picture
from tests.helpers.simulated_nodes import add_simulated_nodes, video_workflow
from tests.versions import routes_of, rst

ERRORS = [
    kind
    for kind in (getattr(comfy_client, name) for name in comfy_client.__all__)
    if inspect.isclass(kind) and issubclass(kind, comfy_client.ComfyError)
]
SCHEMA = json.loads(Path(comfy_client.__file__).with_name("schema.json").read_text("utf-8"))

CI = README.with_name(".ci") / "run"

PACKAGES = Path(comfy_client.__file__).parents[1]


# -- pages and blocks ---------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_mistake_in_its_markup_and_leads_to_pages_that_exist(page: str) -> None:
    """docutils reads it without a warning; its links and pictures are those of a repository."""
    for link in document(page).findall(docutils.nodes.reference):
        target, _, section = link.get("refuri", "").partition("#")
        if not re.match("https?://", target):
            of_package = target.startswith("comfy_client/")  # which may be installed elsewhere
            folder = PACKAGES if of_package else PAGES[page].parent
            assert folder.joinpath(target).is_file(), target
            assert not section or section in sections(Path(target).stem), f"{target}#{section}"
    for image in document(page).findall(docutils.nodes.image):
        folder = PACKAGES if image["uri"].startswith("comfy_client/") else PAGES[page].parent
        assert folder.joinpath(image["uri"]).is_file()
        assert image["alt"]


def sections(page: str) -> set[str]:
    """The anchors of a page's sections."""
    return {one["ids"][0] for one in document(page).findall(docutils.nodes.section)}


def test_the_readme_links_to_every_page() -> None:
    """So nobody has to look into the folder."""
    links = {link.get("refuri") for link in document("README").findall(docutils.nodes.reference)}
    assert {f"comfy_client/guide/{page}.rst" for page in PAGES if page != "README"} <= links


def test_the_readme_is_short_and_begins_with_an_example() -> None:
    """A visitor sees code before any section, and all of it in a few minutes."""
    lines = text_of("README").splitlines()
    assert len(lines) <= 280
    assert BLOCKS[0].page == "README"
    assert ".. code-block:: python" in lines[: lines.index("Figures")][:40]


def test_blocks_of_the_readme_run_in_an_empty_folder_after_its_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whoever copies them; before it, the error names the line."""
    told = re.findall(r"^    (comfy-client example > \S+)", text_of("README"), re.MULTILINE)
    loading = [block for block in BLOCKS if block.page == "README" and "txt2img.json" in block.code]
    assert len(loading) >= 5
    monkeypatch.chdir(tmp_path)
    with ComfyServer() as one, ComfyServer() as other:
        codes = [each.code.replace(ADDRESS, one.url).replace(PROXY, other.url) for each in loading]
        with pytest.raises(FileNotFoundError) as caught:
            exec(codes[0], {})
        assert told == [caught.value.__notes__[0].partition("or ")[2]]
        ran = runner().invoke(main, ["run", "txt2img.json", "--host", one.url])
        assert ran.exit_code != 0
        assert told[0] in ran.stderr
        written = runner().invoke(main, told[0].split()[1:2])
        Path("txt2img.json").write_text(written.stdout, "utf-8")
        for code in codes:
            exec(code, {})
    assert list(Path("out").glob("*.png"))


@pytest.fixture
def api() -> Iterator[ComfyApi]:
    with ComfyServer() as embedded, ComfyApi(embedded.url) as client:
        yield client


@pytest.fixture
def server(request: pytest.FixtureRequest, block: Block) -> Iterator[str]:
    """Where the blocks run, in place of the address in them."""
    if request.param == "real":
        real: ComfyUI = request.getfixturevalue("comfyui")
        yield real.url
    else:
        packs = [Manager4(seconds=0, reboot_seconds=0)] if block.page == "manager" else []
        with ComfyServer(step_seconds=0.001, packs=packs) as embedded:
            (embedded.root / "models/checkpoints/tiny.ckpt").touch()
            add_simulated_nodes(embedded)
            yield embedded.url


@pytest.fixture
def scheduler(block: Block) -> Iterator[str]:
    """Where a scheduler of Dask is, in place of the address in a block; it has workers."""
    if SCHEDULER not in block.code:
        yield SCHEDULER
        return
    n_workers = 8 if "wait_for_workers(8)" in block.code else 2
    with LocalCluster(
        n_workers=n_workers, protocol="tcp://", processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


ADDRESS = "http://127.0.0.1:8188"
OF_A_WORKER = "http://{host}:8188"
OF_A_NUMBER = "http://gpu-{n}:8188"
WITH_MODELS = "http://gpu:8188"
SCHEDULER = "tcp://scheduler:8786"
PROXY = "http://127.0.0.1:8189"
BLOCKS = blocks()


def is_of_many_processes(block: Block) -> bool:
    """Whether a block starts Dask, or needs eight workers of it."""
    return "LocalCluster(" in block.code or "wait_for_workers(8)" in block.code


RUNS = [
    pytest.param(
        block,
        where,
        id=f"{block.page}-{index}-{block.section}-{where}",
        marks=[
            *([pytest.mark.real] if where == "real" else []),
            *([pytest.mark.long] if is_of_many_processes(block) else []),
        ],
    )
    for index, block in enumerate([*BLOCKS, *examples()])
    for where in ("embedded", "real")
    if where == "embedded" or (ADDRESS in block.code and block.page != "manager")
]


def test_there_are_blocks() -> None:
    """In the README and in most pages."""
    assert len({block.page for block in BLOCKS}) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_are_those_that_docutils_finds(page: str) -> None:
    """In their sections."""
    found = []
    for block in document(page).findall(docutils.nodes.literal_block):
        if "python" in block["classes"]:
            section = block.parent
            while not isinstance(section, docutils.nodes.section | docutils.nodes.document):
                section = section.parent
            title = section.next_node(docutils.nodes.title)
            found.append(Block(page, title.astext() if title else "", block.astext()))
    assert found == [block for block in BLOCKS if block.page == page]


@pytest.fixture
def hosted(block: Block) -> Iterator[str]:
    """Where a block's hosted ComfyUI is, in place of the proxy's address in it."""
    if "HostedApi" not in block.code:
        yield PROXY
        return
    with ComfyServer(hosted="proxy", step_seconds=0.001) as embedded:
        (embedded.root / "models/checkpoints/tiny.ckpt").touch()
        yield embedded.url


@pytest.mark.parametrize(("block", "server"), RUNS, indirect=["server"])
def test_every_block_runs(
    block: Block,
    server: str,
    scheduler: str,
    hosted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it stands, but for the addresses of the servers, and of a scheduler."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(STAND_INS)])
    monkeypatch.setenv("COMFYUI_TOKEN", "a token")
    graph = comfy_client.Workflow.load(load_workflow("txt2img_tiny"))
    graph.save("txt2img.json")
    graph.save("variant.json")
    Path("saved.json").write_bytes((WORKFLOWS / "txt2img_ui.json").read_bytes())
    Image.new("RGB", (64, 48), "steelblue").save("photo.png")
    Path("video.json").write_text(json.dumps(video_workflow()), "utf-8")
    Path("prompts.csv").write_text("name,text,seed\nfox,a fox,1\nmill,a mill,2\n", "utf-8")
    if block.page == "ci":
        Path("object_info.json").write_text(json.dumps(conformance.definitions("0.28.1")), "utf-8")
        Path("workflows").mkdir()
        Path("workflows", "color.json").write_text(json.dumps(picture()), "utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    code = block.code.replace(ADDRESS, server).replace(SCHEDULER, scheduler)
    code = (
        code.replace(OF_A_WORKER, server)
        .replace(OF_A_NUMBER, server)
        .replace(WITH_MODELS, server)
        .replace(PROXY, hosted)
    )
    exec(compile(code, f"{block.page}: {block.section}", "exec"), names)
    for receiver in filter(inspect.isfunction, names.values()):
        for signal in ("b_preview", "execution_success"):  # blinker's namespace is for all tests
            comfy_client.signal(signal).disconnect(receiver)
    if "show" in names:
        assert Path("preview.jpg").stat().st_size > 1000
        assert list(Path("out").iterdir())


# -- what the README says -----------------------------------------------------------------


def test_the_commands_are_the_ones_that_ci_runs() -> None:
    """What the README tells a new user to type is what .ci/run does."""
    told = re.findall(r"^    (pip install .*)$", text_of("README"), re.MULTILINE)
    assert told == [
        'pip install ".[cli,testing]" && comfy-client demo',
        'pip install ".[test]" && python -m pytest',
    ]
    done = re.findall(r"^as_told \S+ 3\.11 '(.*)'$", CI.read_text(encoding="utf-8"), re.MULTILINE)
    assert done == told


def test_ci_runs_the_long_tests_which_the_command_leaves_out(
    request: pytest.FixtureRequest,
) -> None:
    """And tries the examples of hypothesis that it leaves out."""
    lanes = re.findall(
        r"^lane .* --long .*-m \"(.*?)\"", CI.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert lanes == ["real or long or hypothesis or clients"]
    if not request.config.getoption("long"):
        assert [item for item in request.session.items if item.get_closest_marker("long")] == []


def test_ci_tries_exactly_the_oldest_release_of_each_package() -> None:
    """Each package has one in what ``tests/floors.py`` prints, by which it installs them."""
    metadata = configparser.ConfigParser()
    metadata.read(README.with_name("setup.cfg"), encoding="utf-8")
    needs = [metadata["options"]["install_requires"], *metadata["options.extras_require"].values()]
    named = {line.split()[0] for text in needs for line in text.split("\n") if line[:1] not in "#"}
    pinned = [line.partition("; python_version ") for line in constraints()]
    for python in ("<", ">="):  # than 3.12
        names = [
            one.split("==")[0] for one, _, than in pinned if than.split(" ")[0] in ("", python)
        ]
        assert len(names) == len(set(names)) >= 10
        assert set(names) == named
    assert "-m tests.floors >../constraints.txt" in CI.read_text("utf-8")
    assert "--constraint ../constraints.txt" in CI.read_text("utf-8")
    works = ("test", "docs", "dev")  # for whoever works on the package
    extras = metadata["options.extras_require"]
    text = "\n".join([needs[0], *(extras[one] for one in extras if one not in works)])
    floors = dict(re.findall(r"^([\w.-]+) >= ([\d.]+)(?:, < \d+)?$", text, re.MULTILINE))
    assert floors == {name: floor.release for name, floor in FLOORS.items()}
    assert all(floor.reason for floor in FLOORS.values())


def test_the_page_of_security_advises_what_the_doctor_does() -> None:
    """Each release without known flaws, with the flaw of older ones."""
    section = section_of("security", "Releases of other packages")
    rows = re.findall(r"^(\w+) +(\d\S*) +(\S.*)$", section, re.MULTILINE)
    assert rows == [tuple(one) for one in ADVISED]


def test_lines_of_prose_end_before_column_120() -> None:
    """Rows of tables, and the page of measurements, may be longer."""
    for page in PAGES.keys() - {"speed", "faults"}:
        for line in text_of(page).splitlines():
            is_of_table = (
                line.startswith("==")
                or re.search(r"\S {2,}\S+ {2,}\S", line)
                or line[:40].isspace()
            )
            assert len(line) <= 120 or is_of_table, (page, line)


# -- tables of the guide ------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_row_of_a_table_is_not_cut_in_two(page: str) -> None:
    """A simple table begins a new row wherever its first column has text."""
    for row in document(page).findall(docutils.nodes.row):
        name, *rest = (cell.astext() for cell in row.children)
        assert any(rest), name
        assert not name.endswith(","), name


def test_every_fault_of_the_embedded_server_stands_in_the_table() -> None:
    """And nothing stands there that does not exist."""
    table = section_of("testing-faults", "All faults")
    named = set(re.findall(r"``([a-z_]+)``", table)) - {"ran"}
    assert named == {name for name in dir(Faults) if not name.startswith("_")}


def test_numbers_of_compared_requests_and_workflows_are_as_written() -> None:
    """So many random requests and workflows."""
    text = " ".join(text_of("testing").split())
    assert f"{USUAL} random requests and {USUAL // 3} random workflows" in text


def test_the_package_names_the_systems_that_tests_run_on() -> None:
    """Those of the table where something was run."""
    rows = re.findall(r"^(\w+)  +(\w+)", section_of("windows", "What was run"), re.MULTILINE)
    config = configparser.ConfigParser()
    config.read(README.with_name("setup.cfg"), encoding="utf-8")
    named = re.findall(
        r"Operating System :: .*?(\w+)$", config["metadata"]["classifiers"], re.MULTILINE
    )
    assert sorted(named) == sorted(system for system, run in rows if run not in ("none", "tests"))


def test_every_public_method_stands_in_the_table() -> None:
    """And nothing stands there that does not exist."""
    table = section_of("compatibility", "Every method").split("=====\n", 1)[1]
    named = set(re.findall(r"``([a-z_0-9]+)``", table))
    public = {name for name in dir(ComfyApi) if not name.startswith("_")} | {"client_id"}
    assert named == public - {"timing"}


def test_the_table_of_versions_is_the_one_that_the_tests_hold_every_version_to() -> None:
    """``python -m tests.versions`` prints it."""
    assert rst().strip() in text_of("compatibility")


def test_since_when_a_method_works_agrees_with_the_package() -> None:
    """And so with the docstrings, the errors and the table of versions."""
    section = section_of("compatibility", "Every method")
    table = section[section.index("=====") :]
    (body,) = docutils.core.publish_doctree(table).findall(docutils.nodes.tbody)
    for row in body:
        methods, _, _, since = (cell.astext() for cell in row)
        names = re.findall(r"[a-z_0-9]+", methods)
        said = set(re.findall(r"[A-Z][a-z]{2}|\d[\d.]*", since))
        known = {SINCE[route] for name in names for route in routes_of(name) if route in SINCE}
        words = " ".join(known).replace("ComfyUI ", "")
        assert (names, said) == (names, set(re.findall(r"[A-Z][a-z]{2}|\d[\d.]*", words)))


def test_every_event_name_stands_in_the_table() -> None:
    """The documented names are the ones that can fire."""
    table = section_of("events", "All events").rpartition("\n====")[0]
    rows = [line for line in table.splitlines() if line[:2] == "``"]
    assert {n for row in rows for n in re.findall(r"``([a-z_]+)``", row[:36])} == set(NAMES)


def test_every_error_stands_in_the_table() -> None:
    """With what to do about it."""
    rows = set(re.findall(r"^``([A-Z]\w+)``  ", text_of("errors"), re.MULTILINE))
    assert rows == {kind.__name__ for kind in ERRORS} - {"ComfyError"}


def test_every_code_of_an_error_stands_in_the_table() -> None:
    """And whether another try is worth its while; a class may decide by more than its name."""
    table = section_of("errors", "Codes, and another try").partition("\n====")[2]
    rows = dict(re.findall(r"^``([a-z_]+)`` +(\w+)", table, re.MULTILINE))
    words = {True: "yes", False: "no"}
    told = {code_of(kind): words[kind.retryable] for kind in ERRORS}
    assert rows == {**told, "api_error": "if"}


def test_the_names_of_the_main_dicts_stand_in_the_table() -> None:
    """As the schema has them, in its order."""
    table = section_of("json", "Contents").partition("\n====")[2]
    for row in re.split(r"\n(?=``[A-Z])", table)[1:]:
        kind, *names = re.findall(r"``(\w+)``", row)
        known = SCHEMA["$defs"][kind]["required"]
        assert names[: len(known)] == known, kind


def test_every_counter_and_every_fact_of_a_log_stands_in_its_table() -> None:
    """In the order of the class; what the log has is what tests of it see."""
    table = section_of("monitoring", "Counters").partition("\nname ")[2]
    assert re.findall(r"^``(\w+)``", table, re.MULTILINE) == [
        field.name for field in attrs.fields(comfy_client.ClientStats)
    ]


def test_the_limits_of_to_dict_are_those_of_the_code() -> None:
    text = " ".join(section_of("json", "Contents").split())
    for limit, what in (
        (to_dict.MAX_VALUES, "values"),
        (to_dict.MAX_CHARACTERS, "characters in all"),
        (to_dict.MAX_TEXT, "characters for each text"),
        (to_dict.MAX_DEPTH, "levels"),
    ):
        assert f"{limit:,} {what}" in text


# -- security -----------------------------------------------------------------------------


def millions(number: int) -> str:
    return f"{number // 10**6} million"


#: What a server or a file can reach.
LIMITS: dict[str, str | tuple[int, str]] = {
    "answers that are decoded: max_json": (http.MAX_JSON, "MiB"),
    "their size in memory": f"{pieces.GROWTH} × max_json",
    "one node class, of any number": "max_json",
    "node definitions on disk, of one server": (definitions.MOST_BYTES, "MiB"),
    "servers with definitions on disk": f"{definitions.MOST_FILES}",
    "answers that are always small, refusals": (http.SMALL, "MiB"),
    "other answers that are kept in memory": (http.MAX_ANSWER, "GiB"),
    "interim answers (1xx) before an answer": f"{connections.MAX_INTERIM}",
    "all cookies": (connections.MAX_COOKIES, "KiB"),
    "a download or an upload, without timeout=": f"{http.MAX_TRANSFER:.0f} s",
    "a message of the socket": (dial.MAX_FRAME, "MiB"),
    "a text message of the socket": (dial.MAX_TEXT, "MiB"),
    "its size in memory": (wire.MAX_DECODED, "MiB"),
    "waiting events, and the outputs of unfinished jobs": (3 * http.MAX_JSON, "MiB"),
    "events that wait for one receiver": f"{event_queue.MAX_QUEUED}",
    "the handshake of the socket": (dial.MAX_HANDSHAKE, "MiB"),
    "an id": f"{values.MAX_ID_LENGTH} characters",
    "any other text": f"{values.MAX_TEXT_LENGTH} characters",
    "items of a list or an object in an answer": f"{values.MAX_ITEMS}",
    "lists and objects nested in each other": f"{values.MAX_LEVELS} levels",
    "a file name from the server": f"{outputs.MOST_NAME} characters",
    "a saved file name": f"{saving.MAX_NAME} bytes",
    "a row of a journal": (journal.MAX_ROW, "MiB"),
    "the rows of a grid in a journal: their size in memory": (journal.MAX_MEMORY, "GiB"),
    "parts of a media file from which a workflow is read": f"{stream.MAX_PARTS}",
    "nodes of a workflow in UI format, with those in its subgraphs": f"{links.MAX_NODES}",
    "inputs and values of all these nodes": f"{converting.MAX_VALUES}",
    "pixels of a picture, for pil() and array()": millions(2 * (Image.MAX_IMAGE_PIXELS or 0)),
    "pixels of a picture, in a notebook and for grid()": millions(thumbnails.MAX_PIXELS),
    "bytes of a picture, in a notebook": (gallery.MAX_BYTES, "MiB"),
    "bytes of a picture, for grid()": (sheet.MAX_BYTES, "MiB"),
    "pixels of the sheet of grid()": millions(sheet.MAX_PIXELS),
    "bodies and frames in a recording": (recording.MAX_BODIES, "MiB"),
    "one body or frame in a recording": (recording.MAX_BODY, "MiB"),
    "the file of a recording": (recording.MAX_FILE, "GiB"),
    "secrets to hide, such as cookies, besides your credentials": f"{redaction.MAX_WORDS}",
    "the total length of these secrets": f"{redaction.MAX_LETTERS} characters",
}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def test_the_limits_are_those_of_the_code() -> None:
    """Each stands there as it is, and no other."""
    (body,) = docutils.core.publish_doctree(text_of("limits")).findall(docutils.nodes.tbody)
    said = {what.astext(): most.astext() for what, most in body}
    for what, limit in LIMITS.items():
        if isinstance(limit, tuple):
            number, unit = limit
            assert number == int(said[what].removesuffix(f" {unit}")) * UNITS[unit], what
        else:
            assert said[what] == limit, what
    assert said.keys() == LIMITS.keys()


def test_the_times_in_the_table_have_the_defaults_of_the_code() -> None:
    """``None`` where it has no number."""
    owners = {
        "ComfyApi": comfy_client.ComfyApi.__init__,
        "ComfyPool": comfy_client.ComfyPool.__init__,
        "run_workflow": run_workflow,
        "job.result": comfy_client.Job.result,
        "pool.run": comfy_client.ComfyPool.run,
    }
    text = text_of("errors").partition("What each time means")[2]
    found = re.findall(r"^``([\w.]+)\((\w+)(?:=(.*))?\)``", text, re.MULTILINE)
    found += [(name, time, "") for name in ("map", "sweep") for time in ("timeout", "patience")]
    assert len(found) >= 13
    for name, time, default in found:
        call = owners.get(name) or getattr(comfy_client.ComfyApi, name)
        expected = ast.literal_eval(default) if default else None
        assert inspect.signature(call).parameters[time].default == expected, (name, time)


def test_the_tests_against_attacks_are_where_the_page_says() -> None:
    """In the folder of the tests."""
    named = re.findall(r"``(tests/\S+\.py)``", section_of("security", "Attacks"))
    assert len(named) >= 6
    for path in named:
        assert README.parent.joinpath(path).is_file(), path
