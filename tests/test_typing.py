"""What a type checker says: of the guide, of wrong programs, of modules with a server's nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
import typing
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import comfy_client
from comfy_client.events import CLASSES, Event
from comfy_client.overloads import Events, On, WaitFor
from comfy_client.workflow.codegen import stubs
from tests.comfyui import cache, locked
from tests.guide import STAND_INS, blocks, examples
from tests.helpers.conformance import definitions
from tests.unit.test_stubs import hostile_definitions

PACKAGE = Path(comfy_client.__file__).parent

NODES = {"nodes_0_3_75": "0.3.75", "nodes_0_28_1": "0.28.1"}
BLOCKS = {f"block_{index:03d}": block for index, block in enumerate([*blocks(), *examples()])}

#: What ends in ``# E: code`` is refused with that code, all else is right.
USES = """
import webbrowser
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Literal, assert_type

from comfy_client import (
    ComfyApi, ComfyError, ComfyPool, Event, Executed, ExecutionSuccess, Job, JobEvent, Output,
    OutputFile, OutputFrame, PreviewEvent, Progress, PromptOptions, Result, StatusEvent,
    UnknownEvent,
)

def with_progress(event: Progress) -> None: ...
def with_executed(event: Executed) -> None: ...
def with_any_of_a_prompt(event: JobEvent) -> None: ...
def with_either(event: Progress | Executed) -> None: ...
def with_unknown(event: UnknownEvent) -> None: ...
def with_all(event: Event) -> None: ...

def calls(api: ComfyApi, name: str, either: Literal["progress", "executed"], flag: bool) -> None:
    assert_type(api.on("progress", with_progress), Callable[[], None])
    api.on("progress", with_executed)  # E: arg-type
    api.on("progress", with_any_of_a_prompt, once=flag)
    api.on("status", with_progress)  # E: arg-type
    api.on("progress", lambda event: print(event.value, event.max))
    api.on("progress", lambda event: print(event.output))  # E: attr-defined
    api.on("connected", lambda event: print(event.attempt))
    api.on("all", lambda event: print(event.name))
    api.on("all", with_progress)  # E: arg-type
    api.on(either, with_either)
    api.on(either, with_progress)  # E: arg-type
    api.on("somebodys.node", with_unknown)
    api.on("somebodys.node", lambda event: print(event.data, event.prompt_id))
    api.on("somebodys.node", with_progress)  # E: arg-type
    api.on(name, with_all)
    api.on(name, with_progress)  # E: arg-type

def waits(api: ComfyApi, name: str, either: Literal["progress", "executed"]) -> None:
    assert_type(api.wait_for("b_preview"), PreviewEvent)
    assert_type(api.wait_for("progress", lambda event: event.value == 3, 5.0), Progress)
    assert_type(api.wait_for("execution_success", timeout=5).recovered, bool)
    assert_type(api.wait_for(either), Event)
    assert_type(api.wait_for(name), Event)
    api.wait_for("progress", with_executed)  # E: arg-type

def iterators(api: ComfyApi, name: str, either: Literal["progress", "executed"]) -> None:
    assert_type(api.events(), Iterator[Event])
    assert_type(api.events("all"), Iterator[Event])
    assert_type(api.events("status"), Iterator[StatusEvent])
    assert_type(api.events(either), Iterator[Event])
    assert_type(api.events(name), Iterator[Event])
    for event in api.events(name):
        if isinstance(event, UnknownEvent):
            print(event.data)

def runs(api: ComfyApi) -> None:
    api.run({}, on_event=with_any_of_a_prompt)
    api.run({}, on_event=with_all)
    api.run({}, on_event=with_progress)  # E: arg-type
    jobs = {api.submit({}): 1}
    for job in api.as_completed(jobs, timeout=5):
        assert_type(job, Job)
        print(jobs[job])

def flags(api: ComfyApi, flag: bool) -> None:
    assert_type(api.store_user_data("a", b"", full_info=False), str)
    api.store_user_data("a", b"", full_info=flag)
    api.move_user_data("a", "b", full_info=flag)
    api.list_user_data(split=flag)
    api.list_user_data(full_info=flag)
    ComfyApi(proxies={"http": None, "https": "http://proxy:3128"})

def show(picture: Output) -> None: ...

def pictures(api: ComfyApi, result: Result) -> None:
    picture = result.images[0]
    show(picture)
    assert_type((picture.url, picture.filename), tuple[str | None, str])
    assert_type((picture.subfolder, picture.type, picture.media), tuple[str, str, str])
    assert_type((picture.bytes(), picture.save("out/")), tuple[bytes, Path])
    webbrowser.open(picture.url)  # E: arg-type
    assert_type(api.get_image(result.files[0]), bytes)
    api.get_path_image(result["Save"].files[0])
    if isinstance(picture, OutputFile):
        webbrowser.open(picture.url)
    if isinstance(picture, OutputFrame):
        print(picture.mime)

def ends(job: Job) -> list[str]:
    return [event.name for event in job.events() if event.is_end]

def options(api: ComfyApi, pool: ComfyPool, anything: dict[str, Any]) -> None:
    options: PromptOptions = {"front": True, "preview_method": "none"}
    api.run({}, timeout=5, **options)
    api.submit({}, **options)
    api.queue_prompt(None, {}, **options)
    api.map({}, [], **options)
    api.sweep({}, {}, **options)
    api.run({}, **anything)
    pool.run({}, timeout=5, on_event=with_any_of_a_prompt, **options)
    pool.run({}, on_event=with_progress)  # E: arg-type
    pool.run({}, timout=5)  # E: call-arg
    assert_type(pool.map({}, [], **options), Generator[Result, None, None])
    kept = pool.map({}, [], on_error="keep", timeout=5)
    assert_type(kept, Generator[Result | ComfyError, None, None])
    wrong: PromptOptions = {"frnt": True}  # E: typeddict-unknown-key
"""


#: The same of a module that :func:`stubs` made.
STUBS = """
from typing import Any, Literal, assert_type
from comfy_client import ComfyApi, GraphNode, Link, Workflow
import comfy_client
from nodes_0_28_1 import Graph

def right(api: ComfyApi) -> Workflow:
    g = Graph(api)
    model, clip, vae = g.CheckpointLoaderSimple(ckpt_name="tiny.ckpt")
    assert_type(vae, Link[Literal["VAE"]])
    loader = g.CheckpointLoaderSimple(_title="Loader", _id=7)
    assert_type(loader[1], Link[Literal["CLIP"]])
    assert_type(loader.VAE, Link[Literal["VAE"]])
    positive = g.CLIPTextEncode(clip=clip, text="a fox")
    latent = g.KSampler(
        model=loader, positive=positive, negative=positive[0], latent_image=g.EmptyLatentImage(),
        seed="random", cfg=g.PrimitiveFloat(), sampler_name="euler",
    )
    image = g.VAEDecode(samples=latent.LATENT, vae=vae)
    batch = g.BatchImagesNode(images=[image, g.LoadImage(image="any.png")[0]])
    g.ResizeImageMaskNode({"resize_type.multiplier": 2.0}, input=batch, resize_type="match size")
    g["Epsilon Scaling"](model=model, scaling_factor=1.01)
    g["Epsilon Scaling"](model, 1.01)
    g.ResizeImageMaskNode(batch, "match size")
    positive = g.CLIPTextEncode("a fox", clip, _title="Positive prompt")
    sampler = g.choices.KSampler.sampler_name.euler
    g.KSampler(model, 7, 20, 8.0, sampler, "normal", positive, positive, g.EmptyLatentImage(64, 64))
    g.KSampler(loader, "random", positive=positive, negative=positive, latent_image=latent)
    g.SaveImage(g.VAEDecode(latent, vae), "fox")
    assert_type(g.SaveImage(images=batch).node_id, str)
    return g.workflow()

def wrong(g: Graph, image: Link[Literal["IMAGE"]], latent: Link[Literal["LATENT"]]) -> None:
    g.KSamplr()  # E: attr-defined
    g.SaveImage()  # E: call-arg
    g.SaveImage(images=latent)  # E: arg-type
    g.SaveImage(images=image, prefix="x")  # E: call-arg
    g.SaveImage(images=g.CheckpointLoaderSimple())  # E: arg-type
    g.KSamplerSelect(sampler_name="eular")  # E: arg-type
    g.EmptyImage(width="64")  # E: arg-type
    g.EmptyImage(width=g.PrimitiveFloat())  # E: arg-type
    g.BatchImagesNode(images=[image, latent])  # E: list-item
    g["Epsilon Scaling"](model=image)  # E: arg-type
    g.CLIPTextEncode(text="a fox")  # E: call-overload
    g.CLIPTextEncode("a fox", image)  # E: arg-type
    g.CLIPTextEncode(image, image)  # E: arg-type
    g.SaveImage(latent)  # E: arg-type
    g.SaveImage(image, "x", 3)  # E: call-arg
    a, b = g.CheckpointLoaderSimple()  # E: misc

def untyped(api: ComfyApi) -> None:
    g = comfy_client.Graph(api)
    model, clip, vae = g.CheckpointLoaderSimple(ckpt_name="tiny.ckpt")
    assert_type(model, Link[Any])
    assert_type(g.KSampler(model=model), GraphNode[Any])
    assert_type(g["KSampler"](model=model)[0], Link[Any])
"""


#: One run of mypy over all: half a minute, but minutes on a machine that has other work.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """By module and line, what mypy says; one run over all, since a start takes long."""
    folder = tmp_path_factory.mktemp("typing")
    programs = {name: block.code for name, block in BLOCKS.items()}
    programs |= {
        "uses": USES,
        "uses_of_nodes": STUBS,
        "nodes_hostile": stubs(hostile_definitions()),
    }
    programs |= {name: stubs(definitions(version)) for name, version in NODES.items()}
    programs |= {path.stem: path.read_text(encoding="utf-8") for path in STAND_INS.glob("*.py")}
    for name, code in programs.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--follow-imports=silent", "."]  # of programs, not of the package
    # What others have written need not be checked again; one at a time has the folder.
    kept = cache() / f"mypy-{version('mypy')}"
    kept.mkdir(parents=True, exist_ok=True)
    command += [f"--cache-dir={kept}"]
    command += ["--untyped-calls-exclude=distributed"]  # functions of Dask have no types
    # mypy finds an installed package by itself, but not one that is installed editable.
    source = {} if "site-packages" in PACKAGE.parts else {"MYPYPATH": str(PACKAGE.parent)}
    with locked(kept / "lock"):
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **source},
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert done.stderr == ""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for line in done.stdout.splitlines():
        match = re.fullmatch(r"(\w+)\.py:(\d+): (error|note): (.*)", line)
        assert match, line
        if match[3] == "error":
            found[match[1]][int(match[2])] = match[4]
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", BLOCKS, ids=[f"{b.page}-{b.section}" for b in BLOCKS.values()])
def test_every_block_of_the_guide_is_typed(
    name: str, complaints: dict[str, dict[int, str]]
) -> None:
    """As it stands, by ``mypy --strict``."""
    assert complaints[name] == {}


@pytest.mark.long
@pytest.mark.parametrize("name", [*NODES, "nodes_hostile"])
def test_the_module_of_a_server_is_typed(name: str, complaints: dict[str, dict[int, str]]) -> None:
    """With all classes of two real servers, and with names that nobody has."""
    assert complaints[name] == {}


@pytest.mark.long
@pytest.mark.parametrize(("name", "code"), [("uses", USES), ("uses_of_nodes", STUBS)])
def test_correct_code_passes_mypy_and_wrong_code_is_refused(
    name: str, code: str, complaints: dict[str, dict[int, str]]
) -> None:
    """Events by their names, pictures wherever they are, options of a prompt, nodes of a server."""
    lines = enumerate(code.splitlines(), 1)
    expected = {number: line.split("# E: ")[1] for number, line in lines if "# E: " in line}
    found = {number: text.rpartition("[")[2][:-1] for number, text in complaints[name].items()}
    assert found == expected, complaints[name]


@pytest.mark.parametrize("protocol", [On, WaitFor, Events])
def test_the_overloads_are_the_table_of_events(protocol: type) -> None:
    """Each name with its class, and one for any other name at the end."""
    table: dict[str, type[Event]] = {}
    kinds_of_events = vars(comfy_client.events)
    overloads = _overloads_of(protocol)
    *documented, other = [typing.get_type_hints(one, localns=kinds_of_events) for one in overloads]
    for hints in documented:
        kinds = {hints.get("return"), *_arguments(hints.get("callback"))}
        kinds |= {*_arguments(hints.get("predicate")), *_arguments(hints["return"])}
        (kind,) = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Event)}
        for name in typing.get_args(hints["name"]):
            assert name not in table
            table[name] = kind
    assert table == CLASSES
    assert other["name"] is str


def _overloads_of(protocol: type) -> typing.Sequence[Callable[..., object]]:
    """Those of its ``__call__``, which has no implementation that would know its own name."""
    call = types.SimpleNamespace(
        __module__=protocol.__module__, __qualname__=f"{protocol.__qualname__}.__call__"
    )
    return typing.get_overloads(call)


def _arguments(hint: object) -> set[object]:
    """All that stands in the brackets of a type, at any depth."""
    inner = hint if isinstance(hint, list) else typing.get_args(hint)
    return {item for item in inner if isinstance(item, type)}.union(*map(_arguments, inner))
