"""``Workflow.provide``: node packs and models that a workflow lacks, by the embedded Managers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.errors import RequestTimeout, ServerUnreachable
from comfy_client.ext import Obstacle, Plan, ProvideStep
from comfy_client.testing import (
    ComfyServer,
    ListedModel,
    ListedPack,
    Manager3,
    Manager4,
    Manager4Legacy,
)
from tests.helpers.graphs import picture
from tests.helpers.managers import Hasty

GIT = "https://git.example.com/my-pack"
MODELS = "https://models.example.com"
TINY = ListedModel(
    filename="tiny.safetensors", url=f"{MODELS}/tiny.safetensors", save_path="checkpoints"
)
DEEP = ListedModel(
    filename="deep.safetensors", url=f"{MODELS}/deep.safetensors", save_path="checkpoints/XL"
)
KINDS: dict[str, Callable[..., Any]] = {
    "manager4": Manager4,
    "manager4-legacy": Manager4Legacy,
    "manager3": Manager3,
}


def pack(name: str, *classes: str, **facts: Any) -> ListedPack:
    """A pack whose classes are output nodes with a number."""
    known = {
        one: {"input": {"required": {"number": ["INT", {"default": 0}]}}, "output_node": True}
        for one in classes
    }
    return ListedPack(name=name, url=f"https://git.example.com/{name}", classes=known, **facts)


MINE = pack("my-pack", "Mine")
REGISTERED = pack("registered", "Registered", version="1.2.0")


def page(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A file as the frontend saves it."""
    made = [
        {"id": at, "mode": 0, "inputs": [], "outputs": [], **node} for at, node in enumerate(nodes)
    ]
    for node in made:  # a widget, as frontends since 2025 save it
        node["inputs"] = [{"name": "number", "type": "INT", "widget": {"name": "number"}}]
    return {"version": 0.4, "nodes": made, "links": []}


def mine(name: str = "Mine", **properties: Any) -> dict[str, Any]:
    return {"type": name, "widgets_values": [7], "properties": properties}


def with_model(name: str = "tiny.safetensors", **source: str) -> dict[str, Any]:
    """A graph whose checkpoint the server lacks."""
    workflow = Workflow.example()
    loader = workflow["CheckpointLoaderSimple"]
    loader["ckpt_name"] = name
    graph = workflow.to_dict()
    graph[loader.id]["_meta"] = {"models": [{"name": name, **source}]} if source else {}
    return graph


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str) -> Iterator[ComfyServer]:
    manager = KINDS[kind](packs=[MINE, REGISTERED], models=[TINY, DEEP], reboot_seconds=1)
    with ComfyServer(packs=[manager], speed=1000) as running:
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as client:
        yield client


def load(source: dict[str, Any], api: ComfyApi) -> Workflow:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Workflow.load(source, api)


def requests_to_restart(server: ComfyServer) -> int:
    return sum(one.path.endswith("/manager/reboot") for one in server.requests)


def posts(server: ComfyServer) -> list[str]:
    return [one.path for one in server.requests if one.method == "POST"]


def causes(plan: Plan) -> list[str]:
    return [one.cause for one in plan.impossible]


def test_packs_of_a_file_are_installed_its_values_are_read_and_it_runs(
    api: ComfyApi, server: ComfyServer
) -> None:
    workflow = load(page(mine(), mine("Registered", cnr_id="registered")), api)
    steps: list[ProvideStep] = []
    assert workflow.provide(api, yes=True, on_progress=steps.append).ok
    assert [(one.kind, one.name) for one in steps] == [
        ("install", GIT),
        ("install", "registered"),
        ("restart", ""),
    ]
    assert {one.total for one in steps} == {3}
    assert requests_to_restart(server) == 1
    assert [node["number"] for node in workflow] == [7, 7]
    api.run(workflow, timeout=60)


def test_a_workflow_that_lacks_nothing_causes_no_question(
    api: ComfyApi, server: ComfyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Workflow.example().provide(api) == Plan()
    assert posts(server) == []
    assert capsys.readouterr().out == ""


def test_a_plan_is_printed_and_without_a_terminal_nothing_is_installed(
    api: ComfyApi, server: ComfyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = load(page(mine()), api).provide(api)
    assert [one.id for one in plan.packs] == [GIT]
    assert not plan.ok
    assert posts(server) == []
    said = capsys.readouterr().out
    assert "install the pack https://git.example.com/my-pack from git.example.com, for Mine" in said
    assert "restart the server" in said
    assert "nothing was installed: there is no terminal to ask in; give yes=True" in said


def test_a_function_is_asked_once_and_its_no_counts(api: ComfyApi, server: ComfyServer) -> None:
    asked: list[Plan] = []
    plan = load(page(mine()), api).provide(api, yes=lambda plan: bool(asked.append(plan)))
    assert asked == [plan]
    assert posts(server) == []


def test_a_model_is_downloaded_from_where_the_workflow_says(api: ComfyApi, kind: str) -> None:
    workflow = Workflow.load(with_model(url=TINY.url, directory="checkpoints"))
    plan = api.ext.plan(workflow)
    [model] = plan.models
    assert (model.folder, model.url, model.host) == ("checkpoints", TINY.url, "models.example.com")
    assert model.size == (None if kind == "manager4" else "1KB")
    assert not plan.restart
    assert workflow.provide(api, yes=True).ok
    assert "tiny.safetensors" in api.get_models("checkpoints")
    api.run(workflow, timeout=60)


@pytest.mark.parametrize("kind", ["manager4"])
@pytest.mark.parametrize("as_page", [False, True])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://user:secret@models.example.com/a.safetensors", "it has a login or a key in it"),
        ("https://models.example.com/a.safetensors?token=secret", "it has a login or a key in it"),
        ("file:///secret/a.safetensors", "it is neither http nor https"),
        ("https://models.example.com/a secret", "it is no plain URL"),
    ],
)
def test_a_url_that_is_not_used_is_told_from_none_and_is_not_shown(
    api: ComfyApi, url: str, reason: str, as_page: bool
) -> None:
    source = {"url": url, "directory": "checkpoints"}
    graph = with_model("a.safetensors", **source)
    if as_page:  # of a class that the server lacks
        graph = page(mine("Mine", models=[{"name": "a.safetensors", **source}]))
    plan = api.ext.plan(load(graph, api))
    [obstacle] = plan.impossible
    assert obstacle.cause == "no_url"
    assert obstacle.message == (
        f"the URL that the workflow has for 'a.safetensors' is not used, as {reason}: get it, and "
        "copy it to models/checkpoints"
    )
    assert "secret" not in str(plan)


def test_a_model_of_the_managers_list_is_found_by_its_name(api: ComfyApi, kind: str) -> None:
    """The new page of Manager 4 has no list."""
    plan = Workflow.load(with_model()).provide(api, yes=True)
    if kind == "manager4":
        assert causes(plan) == ["no_url"]
        assert "copy it to models/checkpoints" in str(plan)
    else:
        assert plan.ok


def test_an_input_is_set_to_the_place_where_the_managers_list_puts_a_model(
    api: ComfyApi, kind: str
) -> None:
    workflow = Workflow.load(with_model("deep.safetensors", url=DEEP.url))
    assert workflow.provide(api, yes=True).ok
    found = workflow["CheckpointLoaderSimple"]["ckpt_name"]
    assert found == ("deep.safetensors" if kind == "manager4" else "XL/deep.safetensors")
    api.run(workflow, timeout=60)


@pytest.mark.parametrize("kind", ["manager4-legacy", "manager3"])
def test_a_file_that_the_managers_list_has_twice_goes_to_the_folder_that_is_wanted(
    kind: str,
) -> None:
    """As the real list has old models of AnimateDiff."""
    elsewhere = attrs.evolve(TINY, save_path="loras")
    manager = KINDS[kind](models=[elsewhere, TINY])
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        plan = Workflow.load(with_model(url=TINY.url)).provide(api, yes=True)
        assert plan.ok, plan


def test_a_model_in_a_subfolder_keeps_it(api: ComfyApi, kind: str) -> None:
    source = {"url": f"{MODELS}/new.safetensors", "directory": "checkpoints"}
    plan = Workflow.load(with_model("mine/new.safetensors", **source)).provide(api, yes=True)
    if kind != "manager4":
        assert causes(plan) == ["not_listed"]
        assert "this Manager downloads models of its own list only" in str(plan)
    else:
        assert plan.ok
        assert "mine/new.safetensors" in api.get_models("checkpoints")


def test_files_are_asked_for_anew_whatever_the_client_remembers(
    api: ComfyApi, server: ComfyServer
) -> None:
    workflow = Workflow.load(with_model(url=TINY.url, directory="checkpoints"))
    assert workflow.provide(api, yes=True).ok
    server.reset()  # which deletes it
    assert api.ext.plan(workflow).models


def test_a_class_nobody_knows_and_one_of_a_newer_comfyui_take_a_person(
    api: ComfyApi, server: ComfyServer
) -> None:
    nodes = (mine("NeverHeardOf"), mine("Brand.New", cnr_id="comfy-core", ver="99.1.0"))
    plan = load(page(*nodes), api).provide(api, yes=True)
    assert causes(plan) == ["unknown_class", "other_comfyui"]
    assert "no pack is known for the node class 'NeverHeardOf'" in str(plan)
    assert "needs ComfyUI 99.1.0 or newer, and this server has" in str(plan)
    assert posts(server) == []


def test_the_rest_is_provided_where_something_takes_a_person(api: ComfyApi) -> None:
    plan = load(page(mine(), mine("NeverHeardOf")), api).provide(api, yes=True)
    assert causes(plan) == ["unknown_class"]
    assert plan.packs == ()
    assert "Mine" in api.node_names()


def test_a_pack_that_the_manager_does_not_get_is_not_said_to_be_provided(api: ComfyApi) -> None:
    plan = load(page(mine("Lost", cnr_id="no-such-pack")), api).provide(api, yes=True)
    assert causes(plan) == ["failed"]
    assert "no-such-pack" in str(plan)
    assert plan.packs == ()


def test_a_pack_that_lacks_the_class_or_fails_to_import_is_not_said_to_be_provided(
    kind: str,
) -> None:
    broken = pack("broken", "Broken", import_error="No module named 'torchvision'")
    manager = KINDS[kind](packs=[broken, REGISTERED], installed=["registered"], reboot_seconds=1)
    nodes = (mine("Broken"), mine("Gone", cnr_id="registered", ver="0.9.0"))
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        plan = load(page(*nodes), api).provide(api, yes=True)
    assert sorted(causes(plan)) == ["class_absent", "import_failed"]
    assert "ImportError: No module named 'torchvision'" in str(plan)
    assert "'registered' 1.2.0 is there, but lacks the class 'Gone'" in str(plan)


def test_a_disabled_pack_is_enabled_instead_of_another_one(kind: str) -> None:
    manager = KINDS[kind](
        packs=[pack("first", "Shared"), pack("second", "Shared")],
        installed=["second"],
        reboot_seconds=1,
    )
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        api.ext.manager.disable("second").result(timeout=60)
        api.ext.manager.reboot(wait=60)
        workflow = load(page(mine("Shared")), api)
        [planned] = api.ext.plan(workflow).packs
        assert (planned.id, planned.action) == ("second", "enable")
        assert planned.alternatives == ("https://git.example.com/first",)
        assert workflow.provide(api, yes=True).ok
        assert manager.installed == {"second": True}


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        ({"security_level": "strong"}, page(mine())),
        ({"security_level": "strong"}, page(mine("Registered", cnr_id="registered"))),
        ({"security_level": "strong"}, with_model(url=TINY.url, directory="checkpoints")),
    ],
)
def test_security_settings_that_forbid_it_are_named(
    kind: str, settings: dict[str, Any], source: dict[str, Any]
) -> None:
    manager = KINDS[kind](packs=[MINE, REGISTERED], models=[TINY], **settings)
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        plan = load(source, api).provide(api, yes=True)
        assert requests_to_restart(server) == 0
    [obstacle] = plan.impossible
    assert obstacle.cause == "refused"
    assert "security_level = normal" in obstacle.message
    assert "config.ini" in obstacle.message


def test_a_model_that_cannot_be_reached_names_its_host_and_its_folder(kind: str) -> None:
    manager = KINDS[kind](models=[TINY], unreachable=[TINY.url])
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        source = with_model(url=TINY.url, directory="checkpoints")
        plan = Workflow.load(source).provide(api, yes=True)
    [obstacle] = plan.impossible
    assert obstacle.cause == "failed"
    assert "if models.example.com asks for a login or for consent to a licence" in str(obstacle)
    assert "copy it to models/checkpoints" in str(obstacle)
    assert plan.models == ()


def test_a_model_in_a_folder_that_the_node_does_not_read_is_not_said_to_be_provided() -> None:
    """The file says in which folder it belongs, and may be wrong."""
    source = with_model(url=TINY.url, directory="loras")
    manager = Manager4(models=[TINY], reboot_seconds=1)
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        plan = Workflow.load(source).provide(api, yes=True)
        assert api.get_models("loras") == ["tiny.safetensors"]
    [obstacle] = plan.impossible
    assert obstacle.cause == "still_missing"
    assert "tiny.safetensors was downloaded to models/loras" in obstacle.message


def test_a_refused_restart_asks_for_one_by_hand_and_the_packs_stay() -> None:
    """The setting may change between the installation and the restart."""
    manager = Manager4(packs=[MINE], reboot_seconds=1)
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        server.on("POST", "/v2/manager/reboot", (403, {}, {"error": "security level"}))
        plan = load(page(mine()), api).provide(api, yes=True)
        assert list(manager.installed.values()) == [True]
    [obstacle] = plan.impossible
    assert obstacle.cause == "refused"
    assert "or restart the server by hand: the packs are installed" in obstacle.message


def test_a_server_that_does_not_restart_is_to_be_restarted_by_hand() -> None:
    class Brief(Hasty):
        timing = attrs.evolve(Hasty.timing, reboot=0.2)

    with ComfyServer(packs=[Manager4(packs=[MINE])], speed=1000) as server:
        server.on("POST", "/v2/manager/reboot", (200, {}, "restarting"))
        with Brief(server.url) as api:
            plan = load(page(mine()), api).provide(api, yes=True)
    [obstacle] = plan.impossible
    assert (obstacle.cause, obstacle.about) == ("failed", "restart")
    assert obstacle.message == (
        "the server was asked to restart, but goes on answering: restart it by hand, as the packs "
        "are installed"
    )


def test_prompts_that_came_since_the_question_are_named_by_another_one() -> None:
    manager = Manager4(packs=[MINE], reboot_seconds=1)
    plans: list[Plan] = []

    def agree(plan: Plan) -> bool:
        plans.append(plan)
        if len(plans) == 1:
            server.faults.slow_node("EmptyImage", 1e6)
            other.submit(picture())
            server.until(lambda: server.running is not None)
        return True

    with (
        ComfyServer(packs=[manager], speed=1000) as server,
        ComfyApi(server.url) as api,
        ComfyApi(server.url) as other,
    ):
        assert load(page(mine()), api).provide(api, yes=agree).ok
        assert requests_to_restart(server) == 1
    assert [(one.queued, one.packs[0].action) for one in plans] == [(0, "install"), (1, "restart")]
    assert "restart the server, which loses 1 prompt in its queue" in str(plans[1])


@pytest.mark.parametrize("wait", [0, 60])
def test_a_restart_by_somebody_else_is_enough(wait: float) -> None:
    """As of another program that provides for the same workflow; 0: the server is away then."""
    manager = Manager4(packs=[MINE], models=[TINY], reboot_seconds=1)
    source = page(mine(models=[{"name": TINY.filename, "url": TINY.url, "directory": "loras"}]))

    def restart(step: ProvideStep) -> None:
        if step.kind == "download":
            api.ext.manager.reboot(wait=wait)

    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        assert load(source, api).provide(api, yes=True, on_progress=restart).ok
        assert requests_to_restart(server) == 1


def test_a_server_that_is_away_is_not_waited_for() -> None:
    with ComfyServer() as server, ComfyApi(server.url) as api:
        workflow = load(page(mine()), api)
        server.stop()
        with pytest.raises(ServerUnreachable):
            workflow.provide(api, yes=True)


def test_a_server_that_stays_away_is_waited_for_in_the_time_that_is_given() -> None:
    manager = Manager4(packs=[MINE], reboot_seconds=1)
    with ComfyServer(packs=[manager], speed=1000) as server, Hasty(server.url) as api:
        workflow = load(page(mine()), api)
        with pytest.raises((ServerUnreachable, RequestTimeout)):
            workflow.provide(api, yes=True, on_progress=lambda _: server.stop(), timeout=0.5)


def test_a_file_that_a_new_class_wants_in_another_folder_is_downloaded_again() -> None:
    """Only then the inputs of the class are known, which offers other files here."""
    choices = {"input": {"required": {"number": [["other.safetensors"], {}]}}, "output_node": True}
    choosy = ListedPack(name="my-pack", url=GIT, classes={"Choosy": choices})
    declared = [{"name": TINY.filename, "url": TINY.url, "directory": "loras"}]
    inputs = {"number": "deep/tiny.safetensors"}
    graph = {"1": {"class_type": "Choosy", "inputs": inputs, "_meta": {"models": declared}}}
    manager = Manager4(packs=[choosy], models=[TINY], reboot_seconds=1)
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        plan = Workflow.load(graph).provide(api, yes=True)
        assert sorted(api.get_models("loras")) == ["deep/tiny.safetensors", "tiny.safetensors"]
    assert causes(plan) == ["still_missing"]


@pytest.mark.parametrize(("typed", "installs"), [("y", True), ("Yes ", True), ("", False)])
def test_a_person_at_a_terminal_is_asked_and_no_is_the_default(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    installs: bool,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or typed)
    manager = Manager4(packs=[MINE], reboot_seconds=1)
    with ComfyServer(packs=[manager], speed=1000) as server, ComfyApi(server.url) as api:
        assert load(page(mine()), api).provide(api).ok is installs
        assert bool(manager.installed) is installs
    assert asked == ["Shall the server get this? [y/N] "]
    assert f"install the pack {GIT}" in capsys.readouterr().out


def test_without_a_manager_all_is_named_and_nothing_is_installed() -> None:
    with ComfyServer() as server, ComfyApi(server.url) as api:
        known = with_model(url=TINY.url, directory="checkpoints")
        workflows = Workflow.load(known), load(page(mine(aux_id="somebody/my-pack")), api)
        plans = [one.provide(api, yes=True) for one in workflows]
        assert posts(server) == []
    assert [causes(one) for one in plans] == [["no_manager"], ["no_manager"]]
    assert f"download 'tiny.safetensors' to models/checkpoints from {TINY.url}" in str(plans[0])
    assert "needs the pack 'somebody/my-pack'" in str(plans[1])
    assert all("pip install comfyui-manager" in str(one) for one in plans)


class Killed(BaseException):
    """The end of the process, as far as the server can tell."""


@pytest.mark.parametrize("step", ["install", "download", "restart", "rebooting"])
def test_a_killed_process_is_carried_on_by_the_next(server: ComfyServer, step: str) -> None:
    """``rebooting``: it dies while the server is away."""
    declared = [{"name": "tiny.safetensors", "url": TINY.url, "directory": "checkpoints"}]
    source = page(mine(models=declared))

    def die(now: ProvideStep) -> None:
        if now.kind == "restart" and step == "rebooting":
            api.ext.manager.reboot(wait=0)
        if now.kind in (step, "restart"):
            raise Killed

    with ComfyApi(server.url) as api, pytest.raises(Killed):
        load(source, api).provide(api, yes=True, on_progress=die)
    steps: list[str] = []
    with ComfyApi(server.url) as api:
        workflow = load(source, api)
        assert workflow.provide(api, yes=True, on_progress=lambda now: steps.append(now.kind)).ok
        api.run(workflow, timeout=60)
        assert "tiny.safetensors" in api.get_models("checkpoints")
    assert (
        steps
        == {
            "install": ["install", "download", "restart"],
            "download": ["download", "restart"],
            "restart": ["restart"],
            "rebooting": [],
        }[step]
    )
    assert requests_to_restart(server) == 1


def test_work_that_a_killed_process_has_begun_is_waited_for(server: ComfyServer) -> None:
    source = page(mine())
    steps: list[str] = []

    def tell(now: ProvideStep) -> None:
        steps.append(now.kind)
        if now.kind == "wait":
            server.resume()

    with ComfyApi(server.url) as api:
        server.pause()
        api.ext.manager.install(GIT)
    with ComfyApi(server.url) as api:
        plan = load(source, api).provide(api, yes=True, on_progress=tell, timeout=60)
        assert plan.ok
    assert steps == ["wait", "restart"]


@pytest.mark.parametrize("kind", ["manager4"])
@pytest.mark.parametrize("route", ["/v2/customnode/getmappings", "/object_info", "/system_stats"])
def test_the_callers_time_limits_questions_to_a_server_that_is_slow(
    api: ComfyApi, server: ComfyServer, route: str
) -> None:
    workflow = load(page(mine()), api)
    with (
        server.faults.delay("GET", f"{route}*", 5),
        pytest.raises(RequestTimeout, match="no complete answer in time"),
    ):
        workflow.provide(api, yes=True, timeout=0.5)
    assert posts(server) == []


def test_an_obstacle_is_a_sentence(api: ComfyApi) -> None:
    [obstacle] = load(page(mine("NeverHeardOf")), api).provide(api).impossible
    assert isinstance(obstacle, Obstacle)
    assert str(obstacle) == obstacle.message
    assert obstacle.to_dict() == {
        "cause": "unknown_class",
        "about": "NeverHeardOf",
        "message": obstacle.message,
    }
