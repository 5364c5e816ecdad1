"""Decisions about tasks of ComfyUI-Manager: when one has ended, and how."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import Timing
from comfy_client.errors import ManagerRefused, TaskFailed
from comfy_client.ext.dialects import Work, WorkQueue, results_in
from comfy_client.ext.task_outcomes import TaskEvidence, outcome, refusal
from comfy_client.ext.tasks import new_id, parts_of
from comfy_client.models import InstalledPack

TIMING = Timing(task_worker=3.0, task_forgotten=5.0)
IDLE = WorkQueue(waiting=0, running=0, is_processing=False)
BUSY = WorkQueue(waiting=1, running=1, is_processing=True)
STRANDED = WorkQueue(waiting=1, running=0, is_processing=False)
THERE = InstalledPack("pack", ver="1.0.0", cnr_id="pack")
DISABLED = InstalledPack("pack", ver="1.0.0", cnr_id="pack", enabled=False)
REPOSITORY = InstalledPack("Pack-Folder", ver="abc", aux_id="Owner/pack")


def steps(*seen: tuple[float, WorkQueue]) -> list[str]:
    """What follows for a task without a result, at each of these moments."""
    evidence = TaskEvidence(TIMING)
    return [evidence.step(queue, now) for now, queue in seen]


def test_a_worker_that_has_ended_is_started_again_after_a_while_and_twice_at_most() -> None:
    found = steps(*((float(now), STRANDED) for now in range(12)))
    assert found == [*("wait",) * 3, "start", *("wait",) * 3, "start", *("wait",) * 3, "dead"]


def test_a_worker_that_lives_again_is_not_started() -> None:
    assert steps((0, STRANDED), (2, BUSY), (3, STRANDED), (5, STRANDED)) == ["wait"] * 4


def test_a_task_is_forgotten_once_the_queue_was_empty_for_long_enough() -> None:
    assert steps((0, IDLE), (4, IDLE), (5, IDLE)) == ["wait", "wait", "end"]
    assert steps((0, IDLE), (4, BUSY), (5, IDLE), (9, IDLE)) == ["wait"] * 4


def test_a_task_that_is_not_in_the_queue_is_forgotten_though_others_are() -> None:
    evidence = TaskEvidence(TIMING)
    found = [evidence.step(BUSY, float(now), may_have_it=now < 1) for now in range(7)]
    assert found == [*("wait",) * 6, "end"]


@pytest.mark.parametrize("queue", [IDLE, BUSY, STRANDED])
def test_a_result_ends_a_task_whatever_the_queue_does(queue: WorkQueue) -> None:
    assert TaskEvidence(TIMING, result="success").step(queue, 0.0) == "end"


def ended(kind: str, result: str | None, pack: InstalledPack | None, **more: Any) -> Any:
    """How a task ends."""
    work = Work("1", kind, "pack", **more)
    return outcome(work, result, {} if pack is None else {pack.id: pack}, has_model=False)


@pytest.mark.parametrize("result", ["success", "skip", None])
@pytest.mark.parametrize(
    ("kind", "pack"),
    [("install", THERE), ("enable", THERE), ("disable", DISABLED), ("uninstall", None)],
)
def test_the_installed_packs_confirm_a_result_and_stand_in_for_a_forgotten_one(
    kind: str, pack: InstalledPack | None, result: str | None
) -> None:
    assert ended(kind, result, pack) is pack


@pytest.mark.parametrize("result", ["skip", "success-stable-v0.3.0", "success-switched-v0.3.0"])
def test_an_update_of_comfyui_is_told_with_its_version(result: str) -> None:
    assert ended("update-comfyui", result, None) is None


@pytest.mark.parametrize("result", ["fail", "An error occurred while updating 'comfyui'."])
def test_update_of_comfyui_names_the_likely_reasons_of_a_failure(result: str) -> None:
    said = str(ended("update-comfyui", result, None))
    assert "most likely ComfyUI was not installed with git" in said
    assert "no version" not in said
    said = str(ended("update-comfyui", result, None, version="v9.9.9"))
    assert "there is no version v9.9.9, or ComfyUI was not installed with git" in said


@pytest.mark.parametrize("result", ["success", "skip", None])
@pytest.mark.parametrize(
    ("kind", "pack", "said"),
    [
        ("install", None, "the pack is not installed"),
        ("install", DISABLED, "the pack is still disabled"),
        ("enable", None, "the pack is not installed"),
        ("enable", DISABLED, "the pack is still disabled"),
        ("disable", None, "the pack is not installed"),
        ("disable", THERE, "the pack is still enabled"),
        ("uninstall", THERE, "the pack is still installed"),
        ("update", None, "the pack is not installed"),
        ("fix", None, "the pack is not installed"),
        ("install-model", None, "loras lacks the file"),
    ],
)
def test_a_success_that_does_not_show_is_an_error(
    kind: str, pack: InstalledPack | None, said: str, result: str | None
) -> None:
    error = ended(kind, result, pack, folder="loras")
    assert isinstance(error, TaskFailed)
    assert str(error).endswith(f", but {said}")
    assert (error.task_id, error.kind, error.name) == ("1", kind, "pack")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("install-git", "install the repository pack"),
        ("install-pip", "install the Python packages pack"),
        ("install-model", "install the model pack"),
        ("uninstall", "remove pack"),
        ("fix", "fix pack"),
    ],
)
def test_a_refusal_says_in_plain_words_what_was_refused(kind: str, said: str) -> None:
    assert str(refusal(kind, "pack")).startswith(f"the Manager refused to {said}: ")


def test_a_version_that_was_not_asked_for_is_an_error() -> None:
    assert ended("install", "success", THERE, version="1.0.0") is THERE
    assert ended("install", "success", THERE, version="latest") is THERE
    error = ended("install", "success", THERE, version="2.0.0")
    assert str(error).endswith("the Manager says 'success', but version 1.0.0 is installed")


def test_an_id_of_the_registry_is_known_in_any_case() -> None:
    """The Manager takes it so, and then has the id as the pack writes it."""
    there = InstalledPack("Pack", ver="1.0.0", cnr_id="Pack")
    assert ended("install", "success", there) is there
    assert isinstance(ended("disable", "success", there), TaskFailed)


def test_a_pack_of_a_repository_is_known_by_its_folder_or_repository() -> None:
    assert ended("install", "success", REPOSITORY, is_git=True) is REPOSITORY
    assert isinstance(ended("install", "success", REPOSITORY), TaskFailed)


@pytest.mark.parametrize("kind", ["update", "fix", "update-comfyui", "install-pip"])
def test_a_forgotten_task_that_leaves_no_trace_is_an_error(kind: str) -> None:
    error = ended(kind, None, THERE)
    assert str(error).endswith("so it is unknown whether it was done")


def test_a_forgotten_update_to_the_same_version_may_have_found_none() -> None:
    error = ended("update", None, THERE, version="1.0.0")
    assert "its version is still 1.0.0: there was no newer one, or" in str(error)


def test_the_version_in_the_id_of_a_task_is_read_again() -> None:
    assert parts_of(new_id("update", "pack", "1.0.0")) == ("update", "pack", "1.0.0")
    assert parts_of(new_id("fix", "pack")) == ("fix", "pack", None)
    model = new_id("install-model", "loras/a@b.safetensors")
    assert parts_of(model) == ("install-model", "loras/a@b.safetensors", None)


@pytest.mark.parametrize("kind", ["install", "install-git"])
def test_the_folder_of_another_repository_is_not_the_pack(kind: str) -> None:
    """The Manager tells owner and name of repositories on GitHub only."""
    for end in ("", ".git", "/", "/tree/main"):
        url = f"https://github.com/owner/Pack{end}"
        assert ended(kind, "success", REPOSITORY, is_git=True, url=url) is REPOSITORY
    elsewhere = "https://git.example.com/else/pack"
    assert ended(kind, "success", REPOSITORY, is_git=True, url=elsewhere) is REPOSITORY
    error = ended(kind, "success", REPOSITORY, is_git=True, url="https://github.com/else/pack")
    assert str(error).endswith("but its folder has the repository Owner/pack")


def test_a_forgotten_update_shows_by_another_version() -> None:
    assert ended("update", None, THERE, version="0.9.0") is THERE


def test_an_error_of_the_manager_is_told_without_secrets_of_urls() -> None:
    said = "Model installation error: https://me:p@w@example.com/a.bin?token=abc&x=1 (404)"
    error = ended("install-model", said, None)
    assert "https://***@example.com/a.bin?*** (404)" in str(error)


@pytest.mark.parametrize(
    ("result", "setting"),
    [
        ("failed", "security_level = normal"),
        (
            "This action is not allowed by the current security configuration. See the terminal.",
            "allow_flagged_nodepack_install = true",
        ),
    ],
)
def test_a_refusal_says_what_to_set_and_where(result: str, setting: str) -> None:
    error = ended("install", result, None)
    assert isinstance(error, ManagerRefused)
    assert f"set {setting}" in str(error)
    assert "user/__manager/config.ini" in str(error)
    assert (error.kind, error.name) == ("install", "pack")


@pytest.mark.parametrize(
    ("data", "results"),
    [
        ({"nodepack_result": {"a": "success"}, "model_result": {"b": "skip"}}, ["success", "skip"]),
        ({"nodepack_result": {"a": {"msg": "no commit"}}}, ["no commit"]),
        ({"nodepack_result": {"a": 5}}, [""]),
        ({"nodepack_result": [1]}, []),
        ("nonsense", []),
    ],
)
def test_results_are_read_from_events_of_any_shape(data: object, results: list[str]) -> None:
    assert [*results_in(data).values()] == results
