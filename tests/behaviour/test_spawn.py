"""Clients, jobs, results and pools, and processes that are spawned, as on Windows and macOS."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, JobFailed, PromptRejected, Workflow
from comfy_client.testing import ComfyServer
from tests.helpers.graphs import fresh_color, node, picture, png
from tests.helpers.pools import pooled
from tests.helpers.spawned import go_on, run, run_all


class Fails:
    """A node that raises an error."""

    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FUNCTION = "run"
    INPUT_TYPES = classmethod(lambda cls: {})

    def run(self) -> None:
        raise RuntimeError("out of paint")


@pytest.fixture(scope="module")
def process() -> Iterator[Pool]:
    """A process that has imported all that it runs, and has nothing else of this one."""
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        yield processes


def test_a_job_is_passed_on_by_its_id_and_a_result_as_it_is(
    comfy: ComfyServer, process: Pool
) -> None:
    """The files of the result are read with the client that it takes along."""
    with ComfyApi(comfy.url) as api:
        before, job = api.run(picture(fresh_color())), api.submit(picture(fresh_color()))
        result, data, client_id = process.apply(go_on, (ComfyApi(comfy.url), job.prompt_id, before))
        assert data == before.images[0].bytes()
        assert result.prompt_id == job.prompt_id
        assert result.images[0].bytes() == job.result(60).images[0].bytes()
        assert client_id != api.client_id


def test_the_servers_of_a_pool_and_workflows_are_passed_on(
    comfy: ComfyServer, process: Pool, tmp_path: Path
) -> None:
    """By their URLs or clients, with what the workflows upload: a path, or bytes."""
    path = tmp_path / "fox.png"
    path.write_bytes(png((1, 2, 3)))
    with ComfyServer() as other, contextlib.closing(ComfyApi(comfy.url)) as api:
        workflows = [Workflow(loads(path)), loads(png((4, 5, 6))), picture(fresh_color())]
        got = process.apply(run_all, ([api, other.url], workflows))
        assert len({*got}) == 3
        assert len(comfy.ran) + len(other.ran) == 3
        with pooled([api, other.url]) as pool:
            for kept in (pool, pool.submit(workflows[2])):
                with pytest.raises(TypeError, match="cannot be pickled: "):
                    process.apply(run, (kept, workflows[2]))


def loads(image: Any) -> dict[str, Any]:
    return {"1": node("LoadImage", image=image), "9": picture()["9"]}


def test_values_that_cannot_be_pickled_say_what_to_pass(comfy: ComfyServer, process: Pool) -> None:
    """Before anything is sent to the process, which takes the next one."""
    with ComfyApi(comfy.url) as api:
        job = api.submit(picture(fresh_color()))
        with pytest.raises(TypeError, match=r"pass its prompt_id, and call api\.job"):
            process.apply(run, (api, job))
        for lazy in (job.events(), api.map([picture(fresh_color())])):
            with pytest.raises(TypeError, match="cannot pickle 'generator' object"):
                pickle.dumps(lazy)
        assert process.apply(run, (api, picture(fresh_color()))).images


def test_an_error_comes_back_as_it_is(comfy: ComfyServer, process: Pool) -> None:
    """With the prompt that was refused, or that failed, and what the server said."""
    comfy.add_node(Fails)
    for workflow, kind, words in (
        ({"1": node("Unknown")}, PromptRejected, "Unknown"),
        ({"1": node("Fails")}, JobFailed, "out of paint"),
    ):
        with pytest.raises(kind, match=words):
            process.apply(run, (ComfyApi(comfy.url), workflow))
