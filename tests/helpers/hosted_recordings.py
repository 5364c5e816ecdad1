"""What comfy-api-proxy said, asked again of the embedded one; see recordings/README.md.

A recording is played in its order.  Before each request, the jobs it tells of are brought into the
state that the recorded answer shows: jobs wait at a gate until they have to end.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import attrs
import requests
from PIL import Image, PngImagePlugin

from comfy_client.testing import ComfyServer, Pictures, check_interrupted
from comfy_client.testing.builtin_nodes import EmptyImage, ImageScale
from comfy_client.testing.hosted.hosted_state import digest
from comfy_client.testing.node_api import context
from tests.conftest import load_workflow
from tests.helpers.clients import until

RECORDINGS = Path(__file__).parents[1] / "recordings" / "hosted"
TERMINAL = ("succeeded", "failed", "canceled", "expired")
#: How much smaller than recorded the big files are.
SCALE = {"big_files": 1024}
#: Bodies that the recording does not show, in their order.
BODIES = {"bad_submit": ["", "{no json", "[1]"]}
_TIMEOUT = 60.0

#: What differs between two runs, and how it looks in ours; what is named once must stay the same.
_TOKENS = {
    "uuid": (r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}",) * 2,
    "token": (r"TOKEN\d+", r"[\w=-]+\.[\w-]+"),
    "hash": (r"blake3:[0-9a-f]{64}",) * 2,
    "time": (r"TIME", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?\+00:00"),
    "number": (r"_\d{5}_", r"_\d{5}_"),
    "temp": (r"_temp_[a-z]{5}", r"_temp_[a-z]{5}"),
    "purpose": (r"on purpose: [0-9a-f]{32}", r"on purpose: [0-9a-f]{32}"),
    "proxy": (r"(?:http://)?PROXY(?:TOKEN)?", ""),
    "comfyui": (r"http://COMFYUI", ""),
    "folder": (r"COMFY(?=/)", ""),
}
_TOKEN = re.compile("|".join(f"(?P<{name}>{recorded})" for name, (recorded, _) in _TOKENS.items()))
_ONCE = {"uuid", "token", "hash"}


@cache
def recordings(version: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of each recording of a version."""
    found: dict[str, list[dict[str, Any]]] = {}
    text = gzip.decompress((RECORDINGS / f"{version}.jsonl.gz").read_bytes())
    for line in text.decode().splitlines():
        row = json.loads(line)
        found.setdefault(row.pop("scenario"), []).append(row)
    return found


# -- nodes ------------------------------------------------------------------------------


class Gate:
    """Where jobs wait until they may end."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        #: Jobs that have come here.
        self.reached: set[str] = set()
        #: Jobs that wait before their first node.
        self.early: set[str] = set()
        self.is_open = False

    def wait(self, meanwhile: Callable[[], object] = bool) -> None:
        """Wait until the running job may end."""
        run: Any = context.get()
        self.reached.add(run.prompt_id)
        while not self.is_open and run.prompt_id not in self.allowed:
            meanwhile()
            time.sleep(0.01)
        check_interrupted()


def nodes(gate: Gate) -> dict[str, type]:
    """The nodes of the recorded jobs."""

    class First(EmptyImage):
        RETURN_TYPES: ClassVar[list[str]] = ["IMAGE"]

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            names = ("width", "height", "batch_size", "color")
            return {"required": {name: ("INT", {"default": 1}) for name in names}}

        def run(self, width: int, height: int, batch_size: int, color: int) -> tuple[Pictures]:
            run: Any = context.get()
            classes = {node["class_type"] for node in run.prompt.values()}
            if "CloudSleep" not in classes or run.prompt_id in gate.early:
                gate.wait()
            return super().run(width, height, batch_size, color)

    class CloudSleep:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"images": ("IMAGE",)}}

        def run(self, images: Any) -> Any:
            run: Any = context.get()
            gate.wait(lambda: run.progress(1, 10, ("JPEG", images[0], None)))
            return (images,)

    class CloudFail:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"images": ("IMAGE",)}}

        def run(self, images: Any) -> Any:
            raise RuntimeError(f"it failed on purpose: {'0' * 32}")

    class SaveLatent:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"samples": ("LATENT",), "filename_prefix": ("STRING", {})}}

        def run(self, samples: Any, filename_prefix: str) -> Any:
            file = {"filename": "lat_00001_.latent", "subfolder": "v2", "type": "output"}
            return {"ui": {"latents": [file]}}

    class Scale(ImageScale):
        RETURN_TYPES: ClassVar[list[str]] = ["IMAGE"]

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            sizes: dict[str, Any] = {name: ("INT", {}) for name in ("width", "height")}
            texts: dict[str, Any] = {name: ("STRING", {}) for name in ("upscale_method", "crop")}
            return {"required": {"image": ("IMAGE",), **sizes, **texts}}

        def run(
            self, image: Any, upscale_method: str, width: int, height: int, crop: str
        ) -> tuple[Pictures]:
            gate.wait()
            return super().run(image, upscale_method, width, height, crop)

    return {
        "EmptyImage": First,
        "ImageScale": Scale,
        "CloudSleep": CloudSleep,
        "CloudFail": CloudFail,
        "SaveLatent": SaveLatent,
    }


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _small(color: int) -> dict[str, Any]:
    return _node("EmptyImage", width=32, height=32, batch_size=1, color=color)


def _save(prefix: str, source: str) -> dict[str, Any]:
    return _node("SaveImage", images=[source, 0], filename_prefix=prefix)


def workflow(kind: str, color: int) -> dict[str, Any]:
    """A recorded workflow by what is told of it."""
    if kind == "image_ops":
        return dict(load_workflow("image_ops"))
    found = {"1": _small(color)}
    if kind in ("tiny", "fe"):
        found["2"] = _save(f"v2/{kind}", "1")
    elif kind == "LoadImage":
        found |= {
            "2": _save("v2/before_failure", "1"),
            "3": _node("LoadImage", image="broken.png"),
            "4": _save("v2/never", "3"),
        }
    else:
        found |= {"4": _save("v2/early", "1"), "2": _node("CloudSleep", images=["1", 0])}
        is_failing = kind == "CloudFail"
        found |= {"5": _node("CloudFail", images=["2", 0])} if is_failing else {}
        found |= {} if is_failing else {"3": _save("v2/slow", "2")}
    return found


def picture(size: int, seed: str = "") -> bytes:
    """A picture with this many bytes."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    data = file.getvalue() + seed.encode()
    return data[:size] + bytes(max(0, size - len(data)))


def broken_picture() -> bytes:
    """A picture that ends in the middle of a text."""
    file = io.BytesIO()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("note", "x" * 1000)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=texts)
    return file.getvalue()[:500]


# -- comparing --------------------------------------------------------------------------


@attrs.define
class Comparison:
    """Recorded values and ours, and which id of ours stands for which recorded one."""

    fixed: dict[str, str]
    bound: dict[str, str] = attrs.field(factory=dict)

    def same(self, recorded: Any, ours: Any, where: str = "") -> None:
        """Raise AssertionError where two values differ."""
        if isinstance(recorded, dict) and isinstance(ours, dict):
            assert recorded.keys() == ours.keys(), f"{where}: {[*recorded]} != {[*ours]}"
            for name, value in recorded.items():
                self.same(value, ours[name], f"{where}.{name}")
        elif isinstance(recorded, list) and isinstance(ours, list):
            assert len(recorded) == len(ours), f"{where}: {recorded} != {ours}"
            for index, (one, other) in enumerate(zip(recorded, ours, strict=True)):
                self.same(one, other, f"{where}[{index}]")
        elif isinstance(recorded, set) and isinstance(ours, set):
            assert recorded <= ours, f"{where}: {recorded} is not in {ours}"
        elif isinstance(recorded, str) and isinstance(ours, str):
            self._text(recorded, ours, where)
        else:
            assert recorded == ours, f"{where}: {recorded!r} != {ours!r}"

    def _text(self, recorded: str, ours: str, where: str) -> None:
        pattern, found, end = "", [], 0
        for token in _TOKEN.finditer(recorded):
            kind = str(token.lastgroup)
            fixed = self.fixed.get(kind)
            if kind == "proxy" and not token[0].startswith("http"):
                fixed = self.fixed["proxy"].partition("//")[2]
            pattern += re.escape(recorded[end : token.start()])
            pattern += f"({_TOKENS[kind][1] if fixed is None else re.escape(fixed)})"
            found.append((kind, token[0]))
            end = token.end()
        match = re.fullmatch(pattern + re.escape(recorded[end:]), ours, re.DOTALL)
        assert match, f"{where}: {recorded!r} != {ours!r}"
        for (kind, name), value in zip(found, match.groups(), strict=True):
            if kind in _ONCE:
                known = self.bound.setdefault(name, value)
                assert known == value, f"{where}: {name} is {known}, not {value}"

    def ours(self, recorded: str) -> str:
        """A recorded text with the ids of ours; what is unknown stays as it is."""

        def value(token: re.Match[str]) -> str:
            if token.lastgroup in _ONCE:
                return self.bound.setdefault(token[0], token[0])
            return self.fixed.get(str(token.lastgroup), token[0])

        return _TOKEN.sub(value, recorded)


def _progress_kind(event: str, data: Any) -> str:
    return f"{event} {' '.join(sorted(data))}"


def shape(frames: list[tuple[str, Any]]) -> list[Any]:
    """Frames for a comparison: of progress and previews between two others, only the kinds."""
    found: list[Any] = []
    for event, data in frames:
        if event in ("progress", "preview"):
            kind = _progress_kind(event, data)
            if not found or not isinstance(found[-1], set):
                found.append(set())
            found[-1].add(kind)
        elif (event, data) != (found[-1] if found else None):  # one comment of many
            found.append((event, data))
    return [one if isinstance(one, set) else list(one) for one in found]


# -- playing ----------------------------------------------------------------------------


@attrs.define
class Stream:
    """An open stream of events."""

    job_id: str
    frames: list[tuple[str, Any]] = attrs.field(factory=list)
    thread: threading.Thread | None = None


class Player:
    """One recording, played to a server."""

    def __init__(self, server: ComfyServer, scenario: str, lines: list[dict[str, Any]]) -> None:
        self.server = server
        self.lines = [*_in_order(lines)]
        self.scenario = scenario
        self.scale = SCALE.get(scenario, 1)
        self.gate = Gate()
        for name, cls in nodes(self.gate).items():
            server.add_node(cls, name)
        fixed = {
            "proxy": server.url,
            "comfyui": server.comfyui_url,
            "folder": str(server.root),
        }
        self.compare = Comparison(fixed)
        self.asked = 0
        self._submitted: dict[str, dict[str, Any]] = {}  # workflows by our ids
        self._told: set[str] = set()  # jobs whose end was told
        self._uploads: set[str] = set()
        self._streams: dict[str, Stream] = {}
        self._bodies = list(BODIES.get(scenario, ()))
        self._colors = iter(range(1000, 100000))

    # -- before -------------------------------------------------------------------------

    def prepare(self) -> None:
        """Put files where the recorded server had them, and run the jobs that it ran before."""
        root = self.server.root
        for name in ("photo.png", "photo (1).png"):
            (root / "input" / name).write_bytes(picture(100, name))
        (root / "input/testbed.png").write_bytes(picture(13519))
        (root / "input/broken.png").write_bytes(broken_picture())
        for file in (root / "models/checkpoints").iterdir():
            file.unlink()
        (root / "models/checkpoints/tiny.ckpt").touch()
        if self.scenario == "server_down":  # that had run jobs before
            with self.server.gateway.trap(upstream="up"):
                self._run_before({"id": "before", "status": "succeeded"})
        self._use_keys()
        self._upload_before()
        posted = {job["id"] for line in self._posts() if (job := line["response"])}
        for job in self._earlier(posted):
            self._run_before(job)

    def _use_keys(self) -> None:
        """Use the keys that the recorded server had seen before."""
        answers: dict[str, set[int]] = {}
        for line in self.lines:
            key = line.get("request_headers", {}).get("Idempotency-Key")
            if key is not None:
                answers.setdefault(key, set()).add(line["status"])
        for key, statuses in answers.items():
            if statuses == {422}:
                body = {"workflow": workflow("tiny", next(self._colors))}
                headers = {"Idempotency-Key": key}
                job = self._ask("POST", "/api/v2/jobs", json=body, headers=headers).json()
                self._reach(job["id"], "succeeded")

    def _upload_before(self) -> None:
        """Upload the files that the recorded server knew before."""
        seen: set[str] = set()
        for line in self.lines:
            answer = line.get("response")
            if line.get("path") != "/api/v2/assets" or not isinstance(answer, dict):
                continue
            if line["status"] == 200 and answer["hash"] not in seen:
                parts = line["request"]["multipart"] | {"file_path": answer["file_path"]}
                self._ask("POST", "/api/v2/assets", **self._multipart(line, parts))
            seen.add(answer.get("hash", ""))

    def _posts(self) -> Iterator[dict[str, Any]]:
        return (
            line
            for line in self.lines
            if line.get("method") == "POST" and line["status"] == 201 and _jobs_in(line)
        )

    def _earlier(self, posted: set[str]) -> list[dict[str, Any]]:
        """The jobs that were not submitted in this recording, the oldest first."""
        found: dict[str, dict[str, Any]] = {}
        for line in self.lines:
            for job in reversed(_jobs_in(line)):
                if job["id"] not in posted:
                    found.setdefault(job["id"], job)
        return list(found.values())

    def _run_before(self, job: dict[str, Any]) -> None:
        more: dict[str, Any] = {name: job[name] for name in ("metadata", "priority") if name in job}
        color = next(self._colors)
        if self.scenario == "foreign_job" and job["status"] == "succeeded":
            job_id = job["id"]
            body = {"prompt": workflow("tiny", color), "prompt_id": job_id}
            self._comfy("POST", "/prompt", json=body)
        else:
            body = {"workflow": workflow(_kind(job), color), **more}
            job_id = self._ask("POST", "/api/v2/jobs", json=body).json()["id"]
        self.compare.bound[job["id"]] = job_id
        self._reach(job_id, job["status"])
        if job["status"] == "expired":
            self._comfy("POST", "/history", json={"delete": [job_id]})

    # -- steering -----------------------------------------------------------------------

    def _comfy(self, method: str, path: str, **options: Any) -> Any:
        url = self.server.comfyui_url + path
        answer = requests.request(method, url, timeout=_TIMEOUT, **options)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def _reach(self, job_id: str, status: str) -> None:
        """Bring a job into a state."""
        server = self.server
        if status == "queued":  # and another one runs, or is about to
            until(lambda: server.running or not server.pending)
            return
        if status in ("running", "canceling"):
            until(lambda: self._is_running(job_id))
            return
        if self.scenario == "deleted_outside" and status == "expired":
            self._comfy("POST", "/queue", json={"delete": [job_id]})
        where = self._where(job_id)
        if where is None or where == "ended":
            return
        until(lambda: self._is_running(job_id) or self._where(job_id) == "ended")
        if status == "canceled":
            self._comfy("POST", "/interrupt", json={"prompt_id": job_id})
        self.gate.allowed.add(job_id)
        until(lambda: job_id in server.history)

    def _is_running(self, job_id: str) -> bool:
        """Whether a job runs and has come to the gate; let those before it end."""
        where = self._where(job_id)
        if where == "pending":
            self.gate.allowed |= {item[1] for item in self.server.running}
        return where == "running" and job_id in self.gate.reached

    def _where(self, job_id: str) -> str | None:
        """Where ComfyUI has a job."""
        server = self.server
        for place, items in (("pending", server.pending), ("running", server.running)):
            if any(item[1] == job_id for item in items):
                return place
        return "ended" if job_id in server.history else None

    def _steer(self, jobs: list[dict[str, Any]]) -> contextlib.AbstractContextManager[None]:
        """Bring jobs into the states of an answer; return what must last while it is asked for."""
        is_denied = False
        for job in jobs:
            job_id = self.compare.bound.get(job["id"])
            if job_id is None:
                continue
            self._reach(job_id, job["status"])
            if job["status"] == "expired" and self._where(job_id) == "ended":
                if job_id in self._told:
                    self._comfy("POST", "/history", json={"delete": [job_id]})
                else:
                    is_denied = True
            if job["status"] in TERMINAL:
                self._told.add(job_id)
        return self.server.gateway.trap(false_expired=int(is_denied))

    # -- lines --------------------------------------------------------------------------

    def play(self) -> int:
        """Ask all requests again; return how many there were."""
        try:
            self.prepare()
            for index, line in enumerate(self.lines):
                if line["kind"] == "http":
                    self._http(index, line)
                elif line["kind"] == "sse_open":
                    self._open(index, line)
                elif line["kind"] == "sse":
                    self._await(line)
                elif line["kind"] == "sse_closed":
                    self._close(line)
                elif line["kind"] == "note":
                    self._note(line["text"])
        finally:
            self.gate.is_open = True
        return self.asked

    def _note(self, text: str) -> None:
        found = re.fullmatch(r"job (\S+) was called expired", text)
        if found:
            job_id = self.compare.bound[found[1]]
            with self._steer([{"id": found[1], "status": "expired"}]):
                answer = self._ask("GET", f"/api/v2/jobs/{job_id}").json()
            assert answer["status"] == "expired"

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(
            method,
            self.server.url + path,
            timeout=_TIMEOUT,
            allow_redirects=False,
            **options,
        )

    def _http(self, index: int, line: dict[str, Any]) -> None:
        jobs = _jobs_in(line)
        is_new = line["method"] == "POST" and line["path"] == "/api/v2/jobs"
        if is_new and line["status"] == 201:
            self._block(index, jobs[0]["id"])
        options = self._options(index, line)
        # A job that a cancel makes expired still waits before it.
        is_cut = line["path"].endswith("/cancel") and "expired" in [job["status"] for job in jobs]
        steered = contextlib.nullcontext() if is_new or is_cut else self._steer(jobs)
        with steered:
            answer = self._ask(line["method"], self.compare.ours(line["path"]), **options)
        self.asked += 1
        where = f"{self.scenario} {line['method']} {line['path']}"
        assert answer.status_code == line["status"], f"{where}: {answer.text}"
        for name, value in line.get("headers", {}).items():
            scaled = self._scaled(value) if name == "content-range" else value
            self.compare.same(scaled, answer.headers.get(name, ""), f"{where} {name}")
        self._body(index, line, answer, where)

    def _block(self, index: int, job: str) -> None:
        """Occupy ComfyUI if a job is told to wait though no other job of the recording runs."""
        for line in self.lines[index + 1 :]:
            found = [one for one in _jobs_in(line) if one["id"] == job]
            if found:
                is_idle = not self.server.running and not self.server.pending
                if found[0]["status"] == "queued" and is_idle:
                    prompt = workflow("tiny", next(self._colors))
                    self._comfy("POST", "/prompt", json={"prompt": prompt})
                    until(lambda: self.server.running)
                return

    def _options(self, index: int, line: dict[str, Any]) -> dict[str, Any]:
        headers = {
            name: self._header(name, value, line)
            for name, value in line.get("request_headers", {}).items()
        }
        options: dict[str, Any] = {"headers": headers}
        request = line.get("request")
        if line["method"] == "POST" and line["path"] == "/api/v2/jobs":
            if request is None:
                return {"data": self._bodies.pop(0), **options}
            body = json.loads(self.compare.ours(json.dumps(request)))
            if "workflow" in body and isinstance(body["workflow"], str):
                body["workflow"] = self._workflow(index, line)
            if body.get("metadata") == "(1025 x)":
                body["metadata"] = "x" * 1025
            return {"json": body, **options}
        if isinstance(request, dict) and "multipart" in request:
            return {**self._multipart(line, request["multipart"]), **options}
        if line["path"] == "/api/v2/assets" and request is not None:
            return {"data": request, **options}  # a form that is not multipart
        if request is not None:
            body = json.loads(self.compare.ours(json.dumps(request)))
            if "must resolve under" in json.dumps(line.get("response")):
                body["path"] = __file__  # recorded as a path in another ComfyUI
            return {"json": body, **options}
        return options

    def _header(self, name: str, value: str, line: dict[str, Any]) -> str:
        if name == "Range":
            return self._scaled(value)
        is_wrong = "Invalid token" in json.dumps(line.get("response"))
        return self.compare.ours(value.replace("(token)", "wrong" if is_wrong else "secret"))

    def _scaled(self, text: str) -> str:
        """A text with the numbers of bytes of the smaller files."""

        def smaller(number: re.Match[str]) -> str:
            is_last = int(number[0]) % self.scale
            return str((int(number[0]) + bool(is_last)) // self.scale - bool(is_last))

        return re.sub(r"\b\d{7,}\b", smaller, text) if self.scale != 1 else text

    def _workflow(self, index: int, line: dict[str, Any]) -> Any:
        word = line["request"]["workflow"]
        if word == "(a UI file)":
            return load_workflow("txt2img_ui")
        if word == "(invalid_values)":
            return load_workflow("invalid_values")
        if word.startswith("(txt2img_tiny"):
            found: Any = json.loads(json.dumps(load_workflow("txt2img_tiny")))
            found["4"]["inputs"]["ckpt_name"] = "missing.ckpt"
            return found
        job = (line.get("response") or {}).get("id", "")
        told = [one for later in self.lines[index:] for one in _jobs_in(later) if one["id"] == job]
        best: dict[str, Any] = max(told, key=lambda one: len(one.get("outputs") or ()), default={})
        kind = _kind(best)
        if self.scenario.startswith(("events_", "job_queue", "poll_after")) and kind == "tiny":
            kind = "tiny" if self.scenario == "events_tiny" else "slow"
        is_second = self.scenario == "job_cached" and self._submitted
        color = 1 if self.scenario == "job_cached" and is_second else next(self._colors)
        return workflow(kind, 1 if self.scenario == "job_cached" else color)

    def _multipart(self, line: dict[str, Any], parts: dict[str, str]) -> dict[str, Any]:
        parts = dict(parts)
        found = re.fullmatch(r"\((\d+) bytes, (.+), (.+)\)", parts.pop("file", ""))
        files: dict[str, Any] = {name: (None, value) for name, value in parts.items()}
        recorded = (line.get("response") or {}).get("hash", "")
        if found:
            seed = recorded or json.dumps(line["response"])
            data = self._data(int(found[1]) // self.scale, seed, found[2])
            if recorded:
                self.compare.bound[recorded] = digest(data)
            files["file"] = (found[2], data, found[3])
        if "expected_hash" in parts:
            files["expected_hash"] = (None, self.compare.ours(parts["expected_hash"]))
        return {"files": files}

    def _data(self, size: int, seed: str, name: str) -> bytes:
        if name.endswith(".safetensors") and size > 8:
            header = json.dumps({"__metadata__": {"note": seed[-20:]}}).encode().ljust(size - 8)
            return len(header).to_bytes(8, "little") + header
        return picture(size, seed)

    # -- answers ------------------------------------------------------------------------

    def _body(
        self, index: int, line: dict[str, Any], answer: requests.Response, where: str
    ) -> None:
        recorded = line.get("response")
        if "text" in line:
            assert answer.text == line["text"], where
        if "len" in line:
            self._content(line, answer, where)
        if isinstance(recorded, str):  # cut off by the recorder: what is whole is compared
            whole = _jobs_in(line)
            self.compare.same(whole, answer.json()["jobs"][: len(whole)], where)
        elif recorded is not None:
            ours = self._settled(recorded, answer.json())
            self._compare(recorded, ours, where)
            if line["method"] == "POST" and line["path"] == "/api/v2/jobs" and "id" in recorded:
                self._submitted[ours["id"]] = {}
                self._hold_early(index, recorded["id"], ours["id"])

    def _compare(self, recorded: Any, ours: Any, where: str) -> None:
        if recorded.get("workflow") == "(the workflow)":
            assert ours["workflow"]
            ours = {**ours, "workflow": "(the workflow)"}
        if self.scale != 1:
            text = self._scaled(json.dumps(recorded))
            recorded = (
                json.loads(text)
                if "id" not in recorded
                else recorded | {"size_bytes": recorded["size_bytes"] // self.scale}
            )
        self.compare.same(_comparable(recorded), _comparable(ours), where)

    def _settled(self, recorded: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
        """Our answer; to a cancel that was told to be complete at once, once it is complete."""
        if recorded.get("status") == "canceled" and ours.get("status") == "canceling":
            self._reach(ours["id"], "canceled")
            return self._ask("GET", f"/api/v2/jobs/{ours['id']}").json()  # type: ignore[no-any-return]
        return ours

    def _hold_early(self, index: int, job: str, job_id: str) -> None:
        """Make a job that is told to have no outputs wait before its first node."""
        told = [one for line in self.lines[index:] for one in _jobs_in(line) if one["id"] == job]
        last = told[-1] if told else {}
        if last.get("status") == "canceled" and not last["outputs"]:
            self.gate.early.add(job_id)

    def _content(self, line: dict[str, Any], answer: requests.Response, where: str) -> None:
        if "TOKEN" in line["path"]:  # a picture of another size, as its texts are others
            assert answer.content.startswith(b"\x89PNG"), where
            return
        assert len(answer.content) == line["len"] // self.scale, where

    # -- events -------------------------------------------------------------------------

    def _open(self, index: int, line: dict[str, Any]) -> None:
        rows = [row for row in self.lines if row.get("ch") == line["ch"]]
        (opening, *_), path = rows, self.compare.ours(line["path"])
        job_id = path.split("/")[4]
        recorded = _frames(rows)
        stream = self._streams[line["ch"]] = Stream(job_id)
        self._reach(job_id, recorded[0][1]["status"] if recorded else "running")
        answer = self._ask("GET", path, stream=True)
        self.asked += 1
        assert answer.status_code == opening["status"]
        for name, value in opening.get("headers", {}).items():
            self.compare.same(value, answer.headers.get(name, ""), name)
        refused = [row for row in rows if row["kind"] == "sse_refused"]
        if refused:
            self.compare.same(refused[0]["response"], answer.json(), path)
            return
        stream.thread = threading.Thread(target=_read, args=(answer, stream.frames))
        stream.thread.start()
        until(lambda: stream.frames)

    def _await(self, line: dict[str, Any]) -> None:
        """Wait until a stream has shown progress, or a preview, as recorded."""
        stream = self._streams[line["ch"]]
        if line["event"] in ("progress", "preview"):
            self._reach(stream.job_id, "running")
            wanted = _progress_kind(line["event"], line["data"])
            until(lambda: any(wanted == _progress_kind(*frame) for frame in [*stream.frames]))

    def _close(self, line: dict[str, Any]) -> None:
        stream = self._streams[line["ch"]]
        rows = [row for row in self.lines if row.get("ch") == line["ch"]]
        recorded = _frames(rows)
        if stream.thread is None:
            return
        last = next(data for event, data in reversed(recorded) if event == "status")
        self._reach(stream.job_id, last["status"])
        is_starved = any(event == "comment" for event, _ in recorded)
        # A starved stream learns of the end at its next keepalive, which is not waited for here.
        pause = 0.05 if is_starved else 15.0
        with self.server.gateway.trap(keepalive=pause):
            stream.thread.join(_TIMEOUT)
        assert not stream.thread.is_alive()
        self._told.add(stream.job_id)
        where = f"{self.scenario} {line['ch']}"
        self.compare.same(shape(recorded), shape(stream.frames), where)


def _in_order(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines; of requests that were sent at once with one key, the one that was taken first."""

    def key(line: dict[str, Any]) -> Any:
        return line.get("request_headers", {}).get("Idempotency-Key", id(line))

    for _, group in itertools.groupby(lines, key):
        same = list(group)
        if "idempotency_key_reuse" in json.dumps(same[0].get("response")):
            same.sort(key=lambda line: line["status"])
        yield from same


def _read(answer: requests.Response, frames: list[tuple[str, Any]]) -> None:
    event = ""
    for line in answer.iter_lines(1):
        name, _, value = line.decode().partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            frames.append((event, json.loads(value)))
        elif line:
            frames.append(("comment", line.decode()))


def _frames(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [
        ("comment", row["text"]) if row["kind"] == "sse_comment" else (row["event"], row["data"])
        for row in rows
        if row["kind"] in ("sse", "sse_comment")
    ]


def _kind(job: dict[str, Any]) -> str:
    """The kind of a job by what its answer tells."""
    names = " ".join(output["name"] for output in job.get("outputs") or ())
    error = (job.get("error") or {}).get("class_type")
    if error:
        return str(error)
    if "image_ops" in names:
        return "image_ops"
    if "fe_" in names:
        return "fe"
    return "slow" if "early" in names or job.get("status") == "canceled" else "tiny"


def _jobs_in(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs in an answer; of one that was cut off, those that are whole."""
    answer = line.get("response")
    if isinstance(answer, str):
        found, rest = [], answer.partition("[")[2]
        with contextlib.suppress(ValueError):
            while True:
                job, end = json.JSONDecoder().raw_decode(rest)
                found.append(job)
                rest = rest[end:].lstrip(", ")
        return found
    if not isinstance(answer, dict):
        return []
    if "jobs" in answer:
        return list(answer["jobs"])
    return [answer] if "urls" in answer else []


def _comparable(value: Any) -> Any:
    """A value without texts that explain inputs, which the recordings do not have.

    The order of ``dependent_outputs`` is that of a set at ComfyUI, another in each process.
    """
    if isinstance(value, dict):
        return {
            name: sorted(one) if name == "dependent_outputs" else _comparable(one)
            for name, one in value.items()
            if name != "tooltip"
        }
    return [_comparable(one) for one in value] if isinstance(value, list) else value
