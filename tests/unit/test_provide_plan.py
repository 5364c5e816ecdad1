"""Plans of what a workflow lacks, by what the server and its Manager know."""

from __future__ import annotations

import pickle
from typing import Any

import attrs
import pytest

from comfy_client import ConversionWarning, Workflow
from comfy_client.ext import Obstacle, Plan, PlannedModel, PlannedPack, ProvideStep
from comfy_client.ext.plan import (
    MissingClass,
    ServerFacts,
    WorkflowNeeds,
    make_plan,
    needs_of,
)
from comfy_client.models import InstalledPack, KnownModel, KnownPack
from comfy_client.workflow.model_files import MissingModel
from comfy_client.workflow.problems import Problem

GIT = "https://github.com/somebody/Some-Pack"
FILE = "https://huggingface.co/somebody/some/resolve/main/some.safetensors"


def facts(**known: Any) -> ServerFacts:
    return ServerFacts(**{"manager": "manager4", **known})


def known(*packs: KnownPack) -> dict[str, KnownPack]:
    return {pack.id: pack for pack in packs}


def installed(*packs: InstalledPack) -> dict[str, InstalledPack]:
    return {pack.id: pack for pack in packs}


def for_class(has: ServerFacts, **said: str) -> Plan:
    return make_plan(WorkflowNeeds((MissingClass("Mine", **said),)), has)


def for_model(
    has: ServerFacts,
    url: str | None = FILE,
    folder: str | None = "loras",
    name: str = "some.safetensors",
) -> Plan:
    return make_plan(WorkflowNeeds(models=(MissingModel(name, folder, url, "1", "lora"),)), has)


def pack_of(plan: Plan) -> tuple[str, str]:
    [pack] = plan.packs
    assert not plan.impossible
    return pack.action, pack.id


def cause_of(plan: Plan) -> str:
    [obstacle] = plan.impossible
    assert (plan.packs, plan.models) == ((), ())
    return obstacle.cause


def test_the_pack_that_the_workflow_names_comes_before_those_of_the_list() -> None:
    listed = known(KnownPack("a", classes=("Mine",)), KnownPack("b", pattern="^Mi"))
    plan = for_class(facts(known=listed), cnr_id="own")
    assert pack_of(plan) == ("install", "own")
    assert plan.packs[0].alternatives == ("a", "b")
    assert plan.packs[0].reason == "the workflow names it"


def test_a_repository_is_written_as_the_manager_lists_it() -> None:
    listed = known(KnownPack(GIT))
    assert pack_of(for_class(facts(known=listed), aux_id="SomeBody/some-pack")) == ("install", GIT)


@pytest.mark.parametrize(
    "others",
    [(), ("https://github.com/other/Some-Pack",), (GIT, "https://github.com/other/Some-Pack")],
)
def test_a_repository_in_whose_place_the_manager_would_install_another_is_not_planned(
    others: tuple[str, ...],
) -> None:
    """It goes by the last part of a URL, whatever the owner."""
    plan = for_class(facts(known=known(*map(KnownPack, others))), aux_id="somebody/Some-Pack")
    assert cause_of(plan) == "not_listed"
    assert "'somebody/Some-Pack' on GitHub, which is not in the Manager's lists" in str(plan)
    there = installed(InstalledPack("Some-Pack", aux_id="somebody/Some-Pack", enabled=False))
    has = facts(known=known(*map(KnownPack, others)), installed=there)
    assert pack_of(for_class(has, aux_id="somebody/Some-Pack")) == ("enable", "Some-Pack")


def test_a_class_of_a_repository_that_the_manager_may_confuse_is_not_said_to_be_comfyuis() -> None:
    listed = known(KnownPack(GIT, classes=("Mine",)), KnownPack("https://github.com/a/some-pack"))
    plan = for_class(facts(known=listed))
    assert cause_of(plan) == "not_listed"
    assert f"the class 'Mine' belongs to {GIT}, but the Manager's lists have several" in str(plan)


def test_a_disabled_pack_comes_before_the_others_of_the_list() -> None:
    listed = known(KnownPack("a", classes=("Mine",)), KnownPack(GIT, pattern="^Mine$"))
    has = facts(known=listed, installed=installed(InstalledPack("some-pack", enabled=False)))
    assert pack_of(for_class(has)) == ("enable", "some-pack")


def test_a_class_that_is_named_comes_before_a_pattern() -> None:
    listed = known(KnownPack("b", pattern="^Mi"), KnownPack("a", classes=("Mine",)))
    assert pack_of(for_class(facts(known=listed))) == ("install", "a")


def test_a_pack_that_was_installed_since_the_start_takes_a_restart_only() -> None:
    has = facts(installed=installed(InstalledPack("own", cnr_id="own")))
    plan = for_class(has, cnr_id="own")
    assert pack_of(plan) == ("restart", "own")
    assert plan.restart
    before = installed(InstalledPack("own", enabled=False))
    has = facts(installed=has.installed, at_start=before)
    assert pack_of(for_class(has, cnr_id="own")) == ("restart", "own")


def test_a_loaded_pack_that_lacks_the_class_gives_way_to_another() -> None:
    own = installed(InstalledPack("own", "2.0.0"))
    has = facts(installed=own, at_start=own, known=known(KnownPack("a", classes=("Mine",))))
    assert pack_of(for_class(has, cnr_id="own")) == ("install", "a")
    alone = for_class(facts(installed=own, at_start=own), cnr_id="own", ver="1.0.0")
    assert cause_of(alone) == "class_absent"
    assert "'own' 2.0.0 is there, but lacks the class 'Mine' (the file is from 1.0.0)" in str(alone)


def test_a_failed_import_is_told_by_its_last_line() -> None:
    own = installed(InstalledPack("own"))
    failures = {"own": "Traceback:\n  File\nImportError: No module named 'x'\n\n"}
    plan = for_class(facts(installed=own, at_start=own, failures=failures), cnr_id="own")
    assert cause_of(plan) == "import_failed"
    assert str(plan).endswith("cannot be imported: ImportError: No module named 'x'")


def test_classes_of_one_pack_share_its_line() -> None:
    missing = tuple(MissingClass(name, cnr_id="own") for name in ("A", "B"))
    [pack] = make_plan(WorkflowNeeds(missing), facts()).packs
    assert pack.classes == ("A", "B")


@pytest.mark.parametrize(
    ("ver", "comfyui", "said"),
    [
        ("0.40.0", "0.33.0", "needs ComfyUI 0.40.0 or newer, and this server has 0.33.0"),
        ("0.3.10", "0.33.0", "was part of ComfyUI 0.3.10 by the file"),
        (None, "0.33.0", "most likely a newer one"),
        ("0.40.0", None, "this server lacks it"),
    ],
)
@pytest.mark.parametrize("manager", ["manager4", None])
def test_a_class_of_comfyui_itself_is_never_a_pack(
    ver: str | None, comfyui: str | None, said: str, manager: str | None
) -> None:
    missing = MissingClass("Mine", cnr_id="comfy-core", ver=ver)
    listed = known(KnownPack("a", classes=("Mine",)))
    has = facts(manager=manager, comfyui=comfyui, known=listed)
    plan = make_plan(WorkflowNeeds((missing,)), has)
    assert cause_of(plan) == "other_comfyui"
    assert said in str(plan)


def test_comfyui_in_the_managers_list_is_no_pack() -> None:
    listed = known(KnownPack("https://github.com/Comfy-Org/ComfyUI", classes=("Mine",)))
    assert cause_of(for_class(facts(known=listed))) == "other_comfyui"


def test_group_nodes_and_unknown_classes_take_a_person() -> None:
    needs = WorkflowNeeds((MissingClass("workflow>Mine"), MissingClass("Other")))
    plan = make_plan(needs, facts())
    assert [one.cause for one in plan.impossible] == ["group_node", "unknown_class"]


def test_a_model_goes_where_the_workflow_says() -> None:
    [model] = for_model(facts(), name="my\\some.safetensors").models
    assert (model.folder, model.name, model.value) == (
        "loras/my",
        "some.safetensors",
        "my\\some.safetensors",
    )
    assert (model.url, model.host, model.size) == (FILE, "huggingface.co", None)


def test_the_page_of_a_file_on_hugging_face_becomes_the_file() -> None:
    [model] = for_model(facts(), FILE.replace("/resolve/", "/blob/")).models
    assert model.url == FILE


@pytest.mark.parametrize(
    ("has", "url", "folder", "cause"),
    [
        (facts(), None, "loras", "no_url"),
        (facts(), FILE, None, "no_folder"),
        (facts(), "https://civitai.com/models/1", "loras", "page"),
        (facts(manager="manager3"), FILE, "loras", "not_listed"),
        (facts(manager="manager4-legacy"), FILE, "loras", "not_listed"),
        (facts(manager=None), FILE, "loras", "no_manager"),
    ],
)
def test_a_model_that_takes_a_person(
    has: ServerFacts, url: str | None, folder: str | None, cause: str
) -> None:
    plan = for_model(has, url, folder)
    assert cause_of(plan) == cause
    assert url is None or url in str(plan)


def test_names_that_lead_out_of_the_folder_are_not_downloaded() -> None:
    for name in ("../some.safetensors", "/etc/some.safetensors"):
        assert cause_of(for_model(facts(), name=name)) == "no_folder"


def test_the_managers_list_knows_urls_sizes_and_folders() -> None:
    entry = KnownModel("some.safetensors", FILE, "loras/SDXL", "144MB")
    has = facts(manager="manager3", listed=(entry,))
    [model] = for_model(has, None).models
    assert (model.url, model.size) == (FILE, "144MB")
    assert (model.folder, model.value) == ("loras/SDXL", "SDXL/some.safetensors")
    [other] = for_model(has, "https://example.com/some.safetensors").models
    assert other.url == FILE
    assert for_model(has, None, "vae").impossible[0].cause == "no_url"


def test_a_name_of_several_models_is_not_guessed() -> None:
    entries = tuple(KnownModel("some.safetensors", f"{FILE}?{n}", "loras") for n in range(2))
    assert cause_of(for_model(facts(listed=entries), None)) == "several_urls"
    has = facts(manager="manager3", listed=entries)
    plan = for_model(has)
    assert cause_of(plan) == "not_listed"
    assert FILE in str(plan)


def test_a_model_of_several_nodes_is_downloaded_once() -> None:
    places = (("1", "lora"), ("2", "lora"))
    models = tuple(MissingModel("some.safetensors", "loras", FILE, *one) for one in places)
    [model] = make_plan(WorkflowNeeds(models=models), facts()).models
    assert model.places == places


def test_declared_models_that_the_server_has_are_not_downloaded() -> None:
    declared = (MissingModel("a/some.safetensors", "loras", FILE, "1", ""),)
    needs = WorkflowNeeds(declared=declared)
    assert make_plan(needs, facts(files={"loras": frozenset({"a/some.safetensors"})})).ok
    assert make_plan(needs, facts(files={"loras": frozenset({"some.safetensors"})})).models


def test_a_second_url_of_one_file_stands_in_the_plan() -> None:
    other = "https://example.com/some.safetensors"
    models = tuple(
        MissingModel("some.safetensors", "loras", url, node, "lora")
        for node, url in (("1", FILE), ("2", other), ("3", FILE))
    )
    [model] = make_plan(WorkflowNeeds(models=models), facts()).models
    assert (model.url, model.alternatives) == (FILE, (other,))
    assert str(model).endswith(f": {FILE}; instead of {other}")


@pytest.mark.parametrize("name", ["a" * 301 + ".pt", "a\x1b[2J.pt", "C:\\a.pt", "/a.pt", "../a.pt"])
def test_names_that_are_none_of_a_model_are_downloaded_nowhere(name: str) -> None:
    plan = for_model(facts(), name=name)
    assert cause_of(plan) == "no_folder"
    assert "is no name of a model file" in str(plan)
    assert len(plan.impossible[0].about) <= 300
    assert "\x1b" not in repr(plan.to_dict()).replace("\\x1b", "")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("__init__.py", "custom_nodes/ComfyUI-Manager"),
        ("some.safetensors", "custom_nodes"),
        ("some.safetensors", "Custom_Nodes/ComfyUI-Manager"),
        ("some.py", "loras"),
        ("some.zip", "loras"),
        ("<huggingface>", "loras"),
        (".", "loras"),
    ],
)
def test_a_file_that_may_be_a_program_is_not_downloaded(name: str, folder: str) -> None:
    """Manager 4 puts any file into the folder of an installed pack."""
    plan = for_model(facts(), folder=folder, name=name)
    assert cause_of(plan) == "no_model"
    assert "may be a part of a program" in str(plan)
    assert f": look at {FILE}, and copy it there yourself" in str(plan)


def test_steps_obstacles_and_plans_are_lines_without_control_characters() -> None:
    bad = "x\x1b[2J\ny" * 1000
    plan = Plan(
        (PlannedPack(bad, "install", (bad,), "why", (bad,)),),
        (PlannedModel(bad, bad, "https://x\x1b7y", bad, bad, (("1", bad),), (bad,)),),
        (Obstacle("failed", bad, bad),),
    )
    said = str(plan)
    assert "\x1b" not in said
    assert len(said.splitlines()) == 6
    assert len(said) < 10_000
    step = str(ProvideStep("install", bad, 0, 1))
    assert step.isprintable()
    assert len(step) < 300


def test_the_pack_that_a_file_names_is_an_id_or_a_repository_or_nothing() -> None:
    """It goes to the Manager's ``install``."""
    absent = Problem("error", "missing_node_type", "", "1", class_type="Mine")
    for bad in ("https://evil.example/x", "../x", "a/b/c", "a b", "-x", "a\n", "x" * 201, ["x"]):
        meta = {"cnr_id": bad, "aux_id": bad, "ver": bad}
        needs = needs_of({"1": {"class_type": "Mine", "inputs": {}, "_meta": meta}}, [absent])
        assert needs.classes == (MissingClass("Mine"),)


def test_a_plan_has_limits_and_says_what_it_leaves_out() -> None:
    problems = [
        Problem("error", "missing_node_type", "", str(n), class_type=f"Class{n}")
        for n in range(600)
    ]
    graph = {
        str(n): {
            "class_type": f"Class{n}",
            "inputs": {},
            "_meta": {"cnr_id": f"pack{n}", "models": [{"name": f"{n}.pt", "url": FILE}]},
        }
        for n in range(600)
    }
    plan = make_plan(needs_of(graph, problems), facts())
    assert len(plan.packs) == 500
    [*_, last] = plan.impossible
    assert last.cause == "too_many"
    assert last.message.startswith("200 more node classes or models are missing")


def test_needs_are_the_missing_classes_and_files_of_a_check() -> None:
    graph = {
        "1": {
            "class_type": "Mine",
            "inputs": {},
            "_meta": {"cnr_id": "own", "models": [{"name": "m.pt", "directory": "vae"}]},
        },
        "2": {"class_type": "Loader", "inputs": {"file": "a.safetensors", "kind": "b"}},
    }
    absent = Problem("error", "missing_node_type", "", "1", class_type="Mine")
    wrong = [
        Problem("error", "value_not_in_list", "", "2", class_type="Loader", input=name)
        for name in ("file", "kind")
    ]
    assert needs_of(graph, [absent, *wrong]) == WorkflowNeeds(
        (MissingClass("Mine", "own"),),
        (MissingModel("a.safetensors", None, None, "2", "file", None, "Loader"),),
        (MissingModel("m.pt", "vae", None, "1", ""),),
    )


def test_a_printed_plan_has_all_steps_hosts_and_losses() -> None:
    plan = Plan(
        (PlannedPack(GIT, "install", ("Mine",), "why", ("b",)),),
        (PlannedModel("m.pt", "vae", "https://a.example/m.pt", "1GB", "m.pt", (("1", "vae"),)),),
        (Obstacle("no_url", "x", "find x"),),
        queued=2,
    )
    assert str(plan).splitlines() == [
        "to provide what the workflow lacks:",
        f"  install the pack {GIT} from github.com, for Mine (why; instead of b)",
        "  download m.pt (1GB, from a.example) to models/vae: https://a.example/m.pt",
        "  restart the server, which loses 2 prompts in its queue",
        "cannot be provided without you:",
        "  find x",
    ]
    assert "which loses 1 prompt in its queue" in str(attrs.evolve(plan, queued=1))
    assert not plan
    assert Plan()
    told = plan.to_dict()
    assert (told["ok"], told["restart"], told["packs"][0]["host"]) == (False, True, "github.com")


def test_values_of_classes_that_came_later_are_read_where_none_was_set() -> None:
    definition = {"input": {"required": {"a": ["INT", {}]}}, "output": [], "output_node": True}
    widget = {"name": "a", "type": "INT", "widget": {"name": "a"}}
    node = {"type": "Mine", "mode": 0, "inputs": [widget], "widgets_values": [7]}
    nodes = [{"id": at, "title": title, **node} for at, title in enumerate(("kept", "read"), 1)]
    with pytest.warns(ConversionWarning, match="its values are left out"):
        workflow = Workflow.load({"version": 0.4, "nodes": nodes, "links": []}, {})
    workflow["kept"].set("a", 9, force=True)
    for one in (workflow.copy(), pickle.loads(pickle.dumps(workflow)), workflow):
        one.read_rest({})
        assert not one["read"].inputs
        one.read_rest({"Mine": definition})
        assert [node["a"] for node in one] == [9, 7]
        one["read"]["a"] = 8
        one.read_rest({"Mine": definition})  # there is no rest
        assert one["read"]["a"] == 8
