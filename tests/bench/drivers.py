"""This library and others, each as ``run(graph)`` -> its pictures as bytes.

Every function is a client's own way to run a graph and to get at the pictures, as its README
shows it, connected to `url` beforehand.  An outcome that a client returns in place of raising is
raised as `Said`.

    python drivers.py NAME URL

runs in the client's own environment, so this file needs nothing but the standard library.  It
reads a graph a line; it answers ``{}`` once it is ready, then a line for each graph: seconds, and
either pictures in base64 or what went wrong.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

Graph = dict[str, Any]
Run = Callable[[Graph], list[bytes]]

#: The title and the id of the node that saves.
TITLE, SAVER = "Save", "9"


class Said(Exception):
    """What a client tells in what it returns."""


def comfy_client(url: str) -> Run:
    from comfy_client import ComfyApi

    api = ComfyApi(url).init()
    return lambda graph: [image.bytes() for image in api.run(graph).images]


def comfy_api_simplified(url: str) -> Run:
    from comfy_api_simplified import ComfyApiWrapper

    api = ComfyApiWrapper(url)
    return lambda graph: list(api.queue_and_wait_images(graph, TITLE).values())


def comfykit_http(url: str, executor: str = "http") -> Run:
    from comfykit import ComfyKit

    kit = ComfyKit(comfyui_url=url, executor_type=executor)
    runner = asyncio.Runner()

    def run(graph: Graph) -> list[bytes]:
        result = runner.run(kit.execute_json(graph))
        if result.status != "completed":
            raise Said(result.msg)
        return [_fetched(address) for address in result.images]

    return run


def comfykit_websocket(url: str) -> Run:
    return comfykit_http(url, "websocket")


def comfyapi(url: str) -> Run:
    from comfyapi import ComfyAPIManager

    manager = ComfyAPIManager()
    manager.set_base_url(url)

    def run(graph: Graph) -> list[bytes]:
        manager.load_workflow(_file(graph))
        prompt_id = manager.submit_workflow()
        name, address = manager.wait_for_finish(prompt_id, poll_interval=1)
        with tempfile.TemporaryDirectory() as folder:
            manager.download_output(address, save_path=folder, filename=name)
            return [path.read_bytes() for path in Path(folder).iterdir()]

    return run


def comfyui_utils(url: str) -> Run:
    from comfyui_utils import comfy

    class Callbacks(comfy.Callbacks):
        outputs: dict[str, Any]

        async def queue_position(self, position):
            pass

        async def in_progress(self, node_id, progress, total):
            pass

        async def completed(self, outputs, cached):
            self.outputs = outputs

    api = comfy.ComfyAPI(_address(url))
    runner = asyncio.Runner()

    async def go(graph: Graph) -> list[bytes]:
        callbacks, pictures = Callbacks(), []
        await api.submit(graph, callbacks)
        if not hasattr(callbacks, "outputs"):
            return []

        async def on_load(data):
            pictures.append(data.read())

        for image in callbacks.outputs["images"]:
            await api.fetch(image, on_load)
        return pictures

    return lambda graph: runner.run(go(graph))


def pycomfy(url: str) -> Run:
    from pycomfy import ComfyAPI
    from pycomfy.workflow import Workflow

    logging.disable()
    api = ComfyAPI(url)
    api.connect()
    return lambda graph: [_png(i) for i in Workflow(client=api, workflow_data=graph).execute()]


def comfy_headless(url: str) -> Run:
    from comfy_headless import ComfyClient

    client = ComfyClient(url)

    def run(graph: Graph) -> list[bytes]:
        prompt_id = client.queue_prompt(graph)
        if prompt_id is None:
            raise Said("queue_prompt returned None")
        entry = client.wait_for_completion(prompt_id)
        if entry is None:
            raise Said("wait_for_completion returned None")
        if entry["status"]["status_str"] == "error":
            raise Said(str(entry["status"]))
        return [
            client.get_image(image["filename"], image["subfolder"], image["type"])
            for output in entry["outputs"].values()
            for image in output["images"]
        ]

    return run


def comfy_toolkit(url: str) -> Run:
    from comfy_toolkit import ComfyClient

    client = ComfyClient(url)

    def run(graph: Graph) -> list[bytes]:
        return [client.download(image) for image in client.submit_and_track(graph)["images"]]

    return run


def comfyui_xy(url: str, **options: Any) -> Run:
    from comfyui_xy import ComfyUiClient

    client = ComfyUiClient(url, **options)
    return lambda graph: [each.data for each in client.process_workflow(graph) if each.is_file]


def comfyui_xy_strict(url: str) -> Run:
    return comfyui_xy(url, raise_on_error=True)


def comfyui_workflow_client(url: str) -> Run:
    from comfyuiclient import ComfyUIClient

    def run(graph: Graph) -> list[bytes]:
        client = ComfyUIClient(_address(url), _file(graph))
        client.connect()
        try:
            return [_png(image) for image in client.generate([TITLE]).values()]
        finally:
            client.close()

    return run


def comfyui_async_api_tool(url: str) -> Run:
    import aiohttp
    from comfyui_async_api_tool import ComfyClient

    runner = asyncio.Runner()

    async def go(graph: Graph) -> list[bytes]:
        pictures = []
        async with aiohttp.ClientSession() as session:
            async for event in ComfyClient(session, servers=[url]).run(graph):
                if event["type"] == "image":
                    pictures.append(event["data"])
                elif event["type"] == "error":
                    raise Said(event["msg"])
        return pictures

    return lambda graph: runner.run(go(graph))


def comfyflow(url: str) -> Run:
    from comfyflow import ComfyClient, Workflow

    client = ComfyClient(_address(url))

    def run(graph: Graph) -> list[bytes]:
        workflow, made = Workflow(client), {}
        for node_id, node in graph.items():  # those that feed others stand first
            inputs = {
                name: made[value[0]][value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            made[node_id] = getattr(workflow, node["class_type"])(**inputs)
        return [_png(image) for _, image in client.run(workflow)]

    return run


def comfy_catapult(url: str) -> Run:
    from comfy_catapult.api_client import ComfyAPIClient
    from comfy_catapult.catapult import ComfyCatapult

    runner = asyncio.Runner()
    numbers = itertools.count()

    async def connect() -> tuple[Any, Any]:
        client = ComfyAPIClient(url)
        return client, ComfyCatapult(client, debug_path=None)

    client, catapult = runner.run(connect())

    async def go(graph: Graph) -> list[bytes]:
        history = await catapult.Catapult(
            job_id=f"job-{next(numbers)}", prepared_workflow=graph, important=[SAVER]
        )
        return [
            await client.GetView(
                folder_type=image["type"], subfolder=image["subfolder"], filename=image["filename"]
            )
            for image in history["outputs"][SAVER]["images"]
        ]

    return lambda graph: runner.run(go(graph))


def comfyui_autograph(url: str, **options: Any) -> Run:
    from autograph import ApiFlow

    def run(graph: Graph) -> list[bytes]:
        result = ApiFlow(graph).submit(server_url=url, wait=True, **options)
        return [image["bytes"] for image in result.fetch_images()]

    return run


def comfyui_autograph_events(url: str) -> Run:
    return comfyui_autograph(url, on_event=lambda event: None)


def comfy_sdk(url: str) -> Run:
    from comfy_sdk import Comfy

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("comfy-api-proxy"), "run", "--comfyui", url]
    subprocess.Popen([*command, "--port", str(port)], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    _wait_for(port)
    os.environ["COMFY_BASE_URL"] = f"http://127.0.0.1:{port}"
    client = Comfy()

    def run(graph: Graph) -> list[bytes]:
        job = client.run(client.workflows.from_json(graph))
        return [output.to_bytes() for output in job.get_outputs(SAVER)]

    return run


def hosted_comfy_client(url: str) -> Run:
    from comfy_client import HostedApi

    api = HostedApi(url)

    def run(graph: Graph) -> list[bytes]:
        cancel = graph.pop("cancel", None)
        if cancel is None:
            return [image.bytes() for image in api.run(graph).images]
        job = api.submit(graph)
        time.sleep(cancel)
        job.cancel()
        return [image.bytes() for image in job.result().images]

    return run


def hosted_comfy_sdk(url: str) -> Run:
    os.environ["COMFY_BASE_URL"] = url
    from comfy_sdk import Comfy

    client = Comfy()

    def run(graph: Graph) -> list[bytes]:
        cancel = graph.pop("cancel", None)
        workflow = client.workflows.from_json(graph)
        if cancel is None:
            job = client.run(workflow)
        else:
            job = client.submit(workflow)
            time.sleep(cancel)
            job.cancel()
            job = job.result()
        return [output.to_bytes() for output in job.get_outputs(SAVER)]

    return run


# -- what several need ------------------------------------------------------------------


def _address(url: str) -> str:
    return url.removeprefix("http://")


def _file(graph: Graph) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(graph, file)
    return file.name


def _fetched(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return bytes(answer.read())


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


# -- the process ------------------------------------------------------------------------


def told(error: BaseException | None) -> str:
    """All that an error has: its text, its attributes, the answer that it is about, its causes."""
    texts = []
    while error is not None and len(texts) < 8:
        answer = getattr(error, "response", None)
        texts.append(f"{type(error).__name__}: {error} {vars(error)} {getattr(answer, 'text', '')}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def outcome(run: Run, graph: Graph) -> dict[str, Any]:
    """Seconds, and pictures, or the class of an error (``""``: it was returned) and its words."""
    start = time.perf_counter()
    found: dict[str, Any] = {"pictures": []}
    try:
        found["pictures"] = run(graph)
    except Exception as error:
        kind = "" if isinstance(error, Said) else type(error).__name__
        found |= {"kind": kind, "text": str(error), "told": told(error)}
    return {**found, "seconds": time.perf_counter() - start}


def main(name: str, url: str) -> None:
    out, sys.stdout = sys.stdout, sys.stderr
    run: Run = globals()[name](url)
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        found = outcome(run, json.loads(line))
        found["pictures"] = [base64.b64encode(data).decode() for data in found["pictures"]]
        print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's own folder
    main(*sys.argv[1:])
