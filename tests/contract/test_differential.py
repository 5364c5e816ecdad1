"""The embedded server and the real one are told the same, at random, and must say the same.

Status, headers, content type, JSON, error types, event order, history, and pixels; ids, times,
tracebacks and random letters of file names aside.  A failure shows the request and both answers.

    pytest --real tests/contract/test_differential.py
    DIFFERENTIAL_SEED=7 DIFFERENTIAL_COUNT=900 pytest --real tests/contract/test_differential.py

The count is of requests and, a third of that, of workflows.

Not asked, since these are not about the protocol: the editor's page and the files it ships,
``/system_stats``, ``/internal`` (paths and log lines), nodes
that the embedded server lacks, the descriptions of those that it simulates, what Python says to a
text in the place of a picture, and what depends on the random order of sets on the real server.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import attrs
import pytest

from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.contract.test_routes import PICTURES, loading, png
from tests.helpers.differential import Ask, Run, Side, differences
from tests.helpers.servers import add_test_content

pytestmark = pytest.mark.real

SEED = int(os.environ.get("DIFFERENTIAL_SEED", "4"))
#: What the guide names.
USUAL = 900
COUNT = int(os.environ.get("DIFFERENTIAL_COUNT", USUAL))
VERSIONS = ["0.3.75"]
CLIENT = "00000000000000000000000000000001"


@attrs.define
class Pair:
    """Both servers; whatever is done is done to both and compared."""

    version: str
    real: Side
    embedded: Side
    output_classes: set[str]
    numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(100))

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.real, self.embedded

    def ask(self, ask: Ask) -> dict[str, Any]:
        """The real one's answer, if it is the other's, too."""
        with self.named(ask):
            answers = [side.ask(ask) for side in self.sides]
        self.compare(ask, *answers)
        return answers[0]

    def compare(self, what: Any, real: Any, embedded: Any) -> None:
        lines = list(differences(real, embedded))
        if lines:
            about = f"{self.about}: the answers differ to\n{what}\n\n"
            pytest.fail(about + "\n".join(lines[:30]), pytrace=False)

    @property
    def about(self) -> str:
        """How to have the same again."""
        return f"DIFFERENTIAL_SEED={SEED} DIFFERENTIAL_COUNT={COUNT}, ComfyUI {self.version}"

    @contextlib.contextmanager
    def named(self, what: Any) -> Iterator[None]:
        """An error in here, such as no answer, says what was asked."""
        try:
            yield
        except Exception as exc:
            exc.add_note(f"{self.about}: on\n{what}")
            raise

    def until_idle(self, running: int = 0) -> None:
        for side in self.sides:
            side.until_idle(running)

    def run(self, body: dict[str, Any], client_id: str = CLIENT) -> Run:
        """Run a workflow on both; the real one's outputs go in an order of its own."""
        graph = body["prompt"]
        body["number"] = next(self.numbers)  # it may take the other one several attempts
        with self.named(json.dumps(body)):
            real = self.real.run(body, client_id)
        sinks = [key for key, node in graph.items() if node["class_type"] in self.output_classes]
        if real.history:
            orders = [[*real.outputs, *(key for key in sinks if key not in real.outputs)]]
        else:  # it does not say in which order it looked at them
            orders = list(itertools.permutations(sinks))
        for order in orders:
            prompt = in_order(graph, list(order))
            again = {**body, "prompt": prompt}
            with self.named(json.dumps(again)):
                embedded = self.embedded.run(again, client_id)
            if real.history or real.told() == embedded.told():
                break
        self.compare(json.dumps(body), real.told(), embedded.told())
        return real


def in_order(graph: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    """The same graph with these nodes in this order among the others."""
    places = iter(outputs)
    keys = [next(places) if key in outputs else key for key in graph]
    return {key: graph[key] for key in keys}


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    version = request.param
    with (
        ComfyUI(version=version) as real,
        ComfyServer(version=version, allowed_hosts=["*"]) as embedded,  # as the real one
    ):
        add_test_content(embedded)
        sides = Side("the real one", real.port), Side("the embedded one", embedded.port)
        definitions = sides[1].json("/object_info")
        outputs = {name for name, each in definitions.items() if each["output_node"]}
        yield Pair(version, *sides, outputs)


# -- requests ---------------------------------------------------------------------------

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
PATHS = ("/nope", "/nope.png", "/x.js", "/prompt", "/queue", "/history", "/history/x", "/free")
PATHS = (*PATHS, "/ws", "/upload/image", "/view", "/users", "/settings/x", "/userdata/a")
PATHS = (*PATHS, "/userdata/a/b", "/extensions/x.js", "/embeddings", "/object_info/x", "/interrupt")
READ = ("/models", "/models/configs", "/experiment/models/configs", "/models/diffusers")
READ = (*READ, "/models/loras", "/models/nope", "/models/clip", "/models/unet")
READ = (*READ, "/experiment/models/nope", "/experiment/models/loras", "/features", "/embeddings")
READ = (*READ, "/experiment/models/preview/loras/0/x.ckpt", "/i18n", "/workflow_templates")
READ = (*READ, "/global_subgraphs", "/global_subgraphs/x", "/api/jobs", "/node_replacements")
READ = (*READ, "/view_metadata/loras", "/view_metadata/loras?filename=x.safetensors")
READ = (*READ, "/view_metadata/x?filename=a.safetensors", "/view_metadata/loras?filename=x")
READ = (*READ, "/users", "/settings", "/queue", "/prompt")
READ = (*READ, "/experiment/models/preview/nope/0/x.png", "/api/workflow_templates/x/y")
TO_POST = ("/prompt", "/queue", "/history", "/free", "/interrupt", "/users", "/settings/x")
BODIES = (b"", b"{", b"[]", b"{}", b'"x"', b"5", b"null", b'{"delete":5}', b'{"delete":["a"]}')
BODIES = (*BODIES, b'{"number":"x","prompt":{}}', b'{"prompt":null}', b'{"prompt":[]}')
BODIES = (*BODIES, b'{"username":""}', b'{"prompt":{},"number":"3"}', b'["prompt"]', b"\xff")
BODIES = (*BODIES, b'{"unload_models":true}', b'{"prompt_id":"nope"}', b'{"prompt_id":5}')
CLASSES = ("EmptyImage", "SaveImage", "PreviewAny", "ImageBlend", "ImageScale", "ImageCrop")
CLASSES = (*CLASSES, "LoadImage", "LoadImageMask", "Nope", "a%2Fb", "PrimitiveFloat")
FILES = ("a.png", "a b.png", "\u00e4.png", "x.html", "x.js", "x.txt", "x.json", "x", "x.webp")
MASKED = ("a.png", "testbed.png", "s/a.png")  # their originals; the last one in its folder
MASKS = tuple(f"m{number}.png" for number in range(9))
TYPES = ("input", "output", "temp", "nope", "")
FOLDERS = ("", "s", "s/t", "s/../u", "..", "/etc")
USER_FILES = (
    "a.txt",
    "p.png",
    "f/a.txt",
    "f/b.json",
    "f/g/c.txt",
    "f",
    "../x",
    "../../x",
    "f/../a.txt",
    "x" * 300,
)
USER_FOLDERS = ("", "f", "f/g", "a.txt", "nope", "..", "../..", "/etc")
VALUES = (None, True, 5, 2.5, "v", [1], {"a": {"b": []}})
ORIGINS = ("http://127.0.0.1:<port>", "http://127.0.0.1", "http://127.0.0.1:9", "null", "")
ORIGINS = (*ORIGINS, "http://localhost:<port>", "http://evil.com", "https://127.0.0.1", "x:y:z")
HOSTS = ("127.0.0.1:<port>", "localhost", "localhost:5", "example.org", "[::1]:5")
RANGES = ("bytes=0-3", "bytes=5-", "bytes=-4", "bytes=9999-", "bytes=x", "bytes=3-1", "lines=0-1")
RANGES = (*RANGES, "bytes=0-1,3-4", "bytes=0-0")
PREVIEWS = ("webp", "jpeg", "jpeg;50", "", "png", "webp;0", "jpeg;101", "jpeg;x")
IDS = ("mine", 5, None, "", "00000000-0000-0000-0000-000000000000", ["a"], {"a": 1})


def multipart(
    fields: dict[str, str], file: bytes | None, name: str
) -> tuple[bytes, dict[str, str]]:
    lines = [
        f'--XbX\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if file is not None:
        place = f'Content-Disposition: form-data; name="image"; filename="{name}"'
        lines.append(f"--XbX\r\n{place}\r\nContent-Type: image/png\r\n\r\n".encode())
        lines.append(file + b"\r\n")
    lines.append(b"--XbX--\r\n")
    return b"".join(lines), {"Content-Type": "multipart/form-data; boundary=XbX"}


@attrs.define
class Requests:
    """Makes the next request, or does several of them."""

    pair: Pair
    rng: random.Random

    def any_method(self) -> None:
        method, path = self.rng.choice(METHODS), self.rng.choice(PATHS)
        if (method, path) != ("POST", "/prompt"):
            self.ask(method, path)

    def odd_body(self) -> None:
        headers = self.rng.choice([{}, {"Content-Type": "text/plain; charset=utf-8"}])
        self.ask("POST", self.rng.choice(TO_POST), self.rng.choice(BODIES), headers)

    def read(self) -> None:
        self.ask("GET", self.rng.choice(READ))

    def node(self) -> None:
        self.ask("GET", f"/object_info/{self.rng.choice(CLASSES)}")

    def origin(self) -> None:
        headers = {"Origin": self.rng.choice(ORIGINS), "Host": self.rng.choice(HOSTS)}
        self.ask(self.rng.choice(["GET", "OPTIONS"]), "/prompt", None, headers)

    def history(self) -> None:
        query = ["", "?max_items=1", "?max_items=3&offset=1", "?offset=2", "?max_items=0"]
        query += ["?max_items=x", "?offset=x", "?max_items=-1", "?offset=-3", "/<id 0>", "/<id 3>"]
        query += [f"?max_items={10**21}", f"?max_items=1&offset={10**21}"]
        self.ask("GET", f"/history{self.rng.choice(query)}")

    def forget(self) -> None:
        body = self.rng.choice([{"delete": ["<id 1>"]}, {"delete": ["x", "<id 2>"]}, {}])
        self.post("/history", {"clear": True} if self.rng.random() < 0.1 else body)

    def upload(self) -> None:
        fields = {"subfolder": self.rng.choice(FOLDERS), "type": self.rng.choice(TYPES)}
        fields["overwrite"] = self.rng.choice(["true", "1", "false", "", "True"])
        for name in list(fields):
            if self.rng.random() < 0.6:
                del fields[name]
        content = png(pixel=bytes([self.rng.randrange(2), 2, 3, self.rng.choice([4, 255])]))
        file = self.rng.choice([content, content, content, b"<p>", b"", None])
        if file is None and self.rng.random() < 0.5:
            fields["image"] = "text"
        name = self.rng.choice([*FILES, "", "../a.png", "s/a.png"])
        self.ask("POST", "/upload/image", *multipart(fields, file, name))

    def mask(self) -> None:
        ref: dict[str, Any] = {"filename": self.rng.choice([*MASKED, "no.png", ""])}
        ref |= self.rng.choice([{"type": "input"}, {"type": "nope"}, {}, {"subfolder": "s"}])
        fields = {"original_ref": self.rng.choice([json.dumps(ref), json.dumps(ref), "{}", "x"])}
        name = self.rng.choice(MASKS)
        self.ask("POST", "/upload/mask", *multipart(fields, png(), name))
        self.ask("GET", f"/view?filename={name}&type=input")

    def view(self) -> None:
        name = self.rng.choice([*FILES, "testbed.png", "a (1).png", "/x", "a..b", "s/a.png", ""])
        name += self.rng.choice(["", "", "", " [input]", "[input]", " [temp]"])
        query = {"filename": name, "type": self.rng.choice(["input", "input", *TYPES])}
        if self.rng.random() < 0.3:
            query["subfolder"] = self.rng.choice(FOLDERS)
        if self.rng.random() < 0.3:
            query["preview"] = self.rng.choice(PREVIEWS)
        if self.rng.random() < 0.3:
            query["channel"] = self.rng.choice(["rgb", "rgba", "a", "x", ""])
        path = "/view?" + "&".join(f"{key}={quote(value)}" for key, value in query.items())
        self.ask("GET", path)
        headers: list[dict[str, str]] = [{"Range": one} for one in RANGES]
        headers += [{"If-None-Match": "<etag>"}, {"If-None-Match": "*"}, {"If-Match": '"x"'}]
        headers += [{"If-Modified-Since": "Wed, 25 Nov 2099 01:13:57 GMT"}]
        self.ask(self.rng.choice(["GET", "HEAD"]), path, None, self.rng.choice(headers))

    def user_data(self) -> None:
        file, other = (quote(self.rng.choice(USER_FILES), safe="") for _ in range(2))
        query = self.rng.choice(["", "", "?overwrite=false", "?full_info=true"])
        asks = [("GET", f"/userdata/{file}", None), ("DELETE", f"/userdata/{file}", None)]
        asks += [("POST", f"/userdata/{file}{query}", bytes([self.rng.randrange(65, 91)]))] * 3
        asks += [("POST", f"/userdata/{file}/move/{other}{query}", b"")]
        self.ask(*self.rng.choice(asks))

    def user_lists(self) -> None:
        folder = quote(self.rng.choice(USER_FOLDERS), safe="")
        options = self.rng.sample(["recurse=true", "split=true", "full_info=true", "split=x"], 2)
        path = f"/userdata?dir={folder}&{'&'.join(options)}"
        choices = [path, path, f"/v2/userdata?path={folder}", "/userdata", "/v2/userdata"]
        ask = Ask("GET", self.rng.choice(choices))
        answers = [side.ask(ask) for side in self.pair.sides]
        for answer in answers:
            if isinstance(answer["body"], list):  # as the disk has them
                answer["body"].sort(key=json.dumps)
        self.pair.compare(ask, *answers)

    def settings(self) -> None:
        name, value = self.rng.choice("abc"), self.rng.choice(VALUES)
        if self.rng.random() < 0.5:
            self.ask("GET", self.rng.choice([f"/settings/{name}", "/settings"]))
        elif self.rng.random() < 0.7:
            self.post(f"/settings/{name}", value)
        else:
            self.post("/settings", {name: value})

    def user(self) -> None:
        self.post("/users", {"username": self.rng.choice(["anna", "", " ", "\u00e4 b", "__x"])})

    def prompt(self) -> None:
        """A small workflow with odd fields around it."""
        color = self.rng.randrange(3)
        inputs = {"width": 8, "height": 8, "batch_size": 1, "color": color}
        graph: dict[str, Any] = {
            "1": {"class_type": "EmptyImage", "inputs": inputs},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        body: dict[str, Any] = {"prompt": self.rng.choice([graph, graph, graph, graph, {}, 5, []])}
        if self.rng.random() < 0.3:
            body["number"] = self.rng.choice([0, 7, -3, 1.5, "2", "x", None])
        if self.rng.random() < 0.3:
            body["front"] = self.rng.choice([True, False, 1, ""])
        if self.rng.random() < 0.4:
            body["prompt_id"] = self.rng.choice(IDS)
        if self.rng.random() < 0.3:
            body["client_id"] = self.rng.choice([CLIENT, "", "else"])
        if self.rng.random() < 0.3:
            extra = [{}, {"note": [1]}, {"api_key_comfy_org": "k"}, {"extra_pnginfo": {"a": 1}}, 5]
            body["extra_data"] = self.rng.choice(extra)
        if self.rng.random() < 0.2:
            targets = [[], ["2"], ["1"], 5, None, "2"]
            body["partial_execution_targets"] = self.rng.choice(targets)
        self.post("/prompt", body)
        self.pair.until_idle()

    def held(self) -> None:
        """The queue while one prompt runs and some wait."""
        sleep = {"seconds": 60.0, "ticks": 1200, "text": str(self.rng.random())}
        graph = {"1": {"class_type": "TestSleepOutput", "inputs": sleep}}
        inputs = {"seconds": 0.0, "ticks": 1}
        quick = {"1": {"class_type": "TestSleepOutput", "inputs": inputs}}
        body = {"prompt": graph, "client_id": CLIENT}
        running = self.post("/prompt", body)["body"]["prompt_id"]
        self.pair.until_idle(1)
        waiting = [
            self.post("/prompt", {"prompt": quick, "number": number})["body"]["prompt_id"]
            for number in self.rng.sample(range(1000, 9000), 4)
        ]
        self.ask("GET", "/queue")
        for _ in range(3):
            body = [{"delete": [self.rng.choice(waiting)]}, {"delete": ["nope"]}, {"clear": False}]
            body += [{"delete": waiting[:2]}, {"delete": [running]}, {"clear": True}]
            self.post("/queue", self.rng.choice(body))
            self.ask("GET", "/prompt")
            self.ask("GET", f"/history/{running}")
        self.post("/interrupt", {"prompt_id": waiting[0]})
        for side in self.pair.sides:
            side.until_ticks(CLIENT, 2)  # at each it heeds an interrupt
        self.ask("GET", "/prompt")
        self.ask("GET", f"/history/{running}")
        self.post("/interrupt", self.rng.choice([{}, {"prompt_id": running}]))
        self.pair.until_idle()
        self.ask("GET", "/history?max_items=4")

    def free(self) -> None:
        self.post("/free", self.rng.choice([{"free_memory": True}, {"unload_models": True}, {}]))

    def run_once(self) -> None:
        """What was asked of the worker is done before the next prompt: it may be late for this."""
        inputs = {"seconds": 0.0, "ticks": 1, "text": str(self.rng.random())}
        self.post("/prompt", {"prompt": {"1": {"class_type": "TestSleepOutput", "inputs": inputs}}})
        self.pair.until_idle()

    def post(self, path: str, value: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        return self.ask("POST", path, json.dumps(value).encode(), headers)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Any = None
    ) -> dict[str, Any]:
        if not path.startswith("/api") and self.rng.random() < 0.3:
            path = f"/api{path}"
        answer = self.pair.ask(Ask(method, path, body, headers or {}))
        if method == "POST" and path.endswith("/free"):
            self.run_once()
        return answer


WEIGHTS = {
    "any_method": 8,
    "odd_body": 8,
    "read": 6,
    "node": 3,
    "origin": 5,
    "history": 6,
    "forget": 2,
    "upload": 10,
    "mask": 4,
    "view": 14,
    "user_data": 12,
    "user_lists": 8,
    "settings": 5,
    "user": 1,
    "prompt": 8,
    "held": 1,
    "free": 1,
}


def test_requests_are_answered_alike(pair):
    """Valid and odd ones, to all routes."""
    rng = random.Random(f"requests {SEED}")
    requests = Requests(pair, rng)
    for name in rng.choices(list(WEIGHTS), WEIGHTS.values(), k=COUNT):
        getattr(requests, name)()


STAND_INS = {"VAESave", "LoraLoader", "MaskToImage"}


def test_node_definitions_are_the_same(pair):
    """Compare all classes, also a user's own, but for texts that shipped definitions lack."""
    for name in pair.embedded.json("/object_info").keys() - STAND_INS:
        ask = Ask("GET", f"/object_info/{name}")
        answers = [side.ask(ask) for side in pair.sides]
        pair.compare(ask, *answers)


# -- workflows --------------------------------------------------------------------------

MISSING = object()
WRONG = [None, "wide", {}, "12", 2.5, True, -1, 10**6, [], [1], ["1", 0, 0]]


@attrs.define
class Graphs:
    """Makes small workflows of pictures or texts, valid and not."""

    rng: random.Random
    graph: dict[str, Any] = attrs.field(factory=dict)

    def add(self, class_type: str, **inputs: Any) -> list[Any]:
        key = str(len(self.graph) + 1)
        self.graph[key] = {"class_type": class_type, "inputs": inputs}
        return [key, 0]

    def pictures(self, *, twins: bool = True) -> dict[str, Any]:
        """Exact to the pixel: batches are of one size, as long as twins keep theirs."""
        self.graph = {}
        rng = self.rng
        size = {"width": rng.randrange(1, 24), "height": rng.randrange(1, 24)}
        made = [
            self.add("EmptyImage", **size, batch_size=rng.choice([1, 1, 2]), color=rng.randrange(4))
        ]
        made.append(self.add("LoadImage", image="testbed.png"))
        if twins and rng.random() < 0.3:  # equal, and yet another node
            twin = self.add("EmptyImage", **self.graph["1"]["inputs"])
            made.append(self.add("ImageBatch", image1=made[0], image2=twin))
            made.append(self.add("ImageBatch", image1=made[0], image2=made[0]))
        for _ in range(rng.randrange(5)):
            source = rng.choice(made)
            box = {"width": rng.randrange(1, 40), "height": rng.randrange(1, 40)}
            scale = {"image": source, "upscale_method": "nearest-exact"}
            place = {"x": rng.randrange(60), "y": rng.randrange(60)}
            made.append(
                rng.choice(
                    [
                        lambda s=source: self.add("ImageInvert", image=s),
                        lambda s=source: self.add("ImageInvert", image=s),
                        lambda s=source, b=box, p=place: self.add("ImageCrop", image=s, **b, **p),
                        lambda c=scale, b=box: self.add("ImageScale", **c, **b, crop="disabled"),
                        lambda c=scale, b=box: self.add("ImageScale", **c, **b, crop="center"),
                        lambda c=scale: self.add(
                            "ImageScaleBy", **c, scale_by=rng.choice([0.5, 1.5])
                        ),
                        lambda s=source: self.add(
                            "ImageBatch", image1=s, image2=self.add("ImageInvert", image=s)
                        ),
                    ]
                )()
            )
        for _ in range(rng.choice([1, 1, 2])):
            source = rng.choice(made[-3:])
            sinks = [lambda s=source: self.add("SaveImage", images=s, filename_prefix="d/a")] * 2
            sinks += [lambda s=source: self.add("PreviewImage", images=s)]
            sinks += [lambda s=source: self.add("SaveImageWebsocket", images=s)]
            rng.choice(sinks)()
        return self.graph

    def texts(self) -> dict[str, Any]:
        """Lazy inputs, expansion, failures, blocks."""
        self.graph = {}
        rng = self.rng
        made: list[Any] = ["one", self.add("PrimitiveString", value=rng.choice("ab"))]
        for _ in range(rng.randrange(1, 5)):
            text = rng.choice(made)
            choose = rng.choice(["a", "b", "a", "b", "a b", "b a", "", "c"])
            what = rng.choice(
                [*["text", "show"] * 6, "fail", "block", "unknown", "nowhere", "circle"]
            )
            what = rng.choice([what, what, what, "override"]) if "9" in self.graph else what
            some = {name: rng.choice(made) for name in rng.choice(["ab", "ab", "ab", "a", ""])}
            makers = [lambda c=choose, s=some: self.add("TestSwitch", choose=c, **s)] * 4
            makers += [
                lambda t=text, w=what: self.add(
                    "TestExpand", depth=rng.randrange(3), what=w, text=t
                )
            ] * 4
            makers += [lambda t=text: self.add("TestSleep", seconds=0.0, ticks=2, text=t)]
            makers += [lambda t=text: self.add("TestBlock", message=rng.choice(["", "no"]), text=t)]
            made.append(rng.choice(makers)())
        for _ in range(rng.choice([1, 1, 2])):
            source = made[-1] if rng.random() < 0.7 else rng.choice(made)
            sinks = [lambda s=source: self.add("PreviewAny", source=s)] * 2
            sinks += [lambda s=source: self.add("TestText", text=s)]
            sinks += [lambda s=source: self.add("TestFail", message="told", text=s)]
            rng.choice(sinks)()
        return self.graph

    def spoiled(self) -> dict[str, Any]:
        """One thing wrong."""
        graph, rng = self.pictures(twins=False), self.rng
        # By kind of fault: where, under which name, and what to put there.
        faults: defaultdict[str, list[tuple[dict[str, Any], str, list[Any]]]] = defaultdict(list)
        for key, node in graph.items():
            inputs = node["inputs"]
            links = [name for name, value in inputs.items() if isinstance(value, list)]
            users = str(graph).count(f"['{key}', 0]")  # the first of them is blamed
            raises = node["class_type"] == "LoadImage" and users > 1
            faults["class"].append((node, "class_type", ["Nope", "", "ImageBatchX"]))
            faults["extra"].append((inputs, "bogus", [1, "x", None, {"a": 1}]))
            for name, value in inputs.items():
                if not raises:
                    faults["missing"].append((inputs, name, [MISSING]))
                if name in ("width", "height", "batch_size"):
                    faults["range"].append((inputs, name, [0, -1, 16385, 99999, "0"]))
                if name in ("upscale_method", "crop", "image") and name not in links:
                    wrong = ["nope", "", "NEAREST-EXACT", "no.png [temp]"]
                    faults["choice"].append((inputs, name, wrong))
                if name not in links:
                    if not raises:
                        faults["type"].append((inputs, name, WRONG))
                    continue
                if users < 2:
                    faults["slot"].append((inputs, name, [[value[0], n] for n in (1, 5, -1, "0")]))
                if len(links) == 1:
                    faults["circle"].append((inputs, name, [[key, 0]]))
                if users < 2:
                    faults["nowhere"].append((inputs, name, [["77", 0]]))
                wrong_links = [[], ["1"], ["1", 0, 0], [["1"]]]
                faults["bad link"].append((inputs, name, wrong_links))
        where, name, what = rng.choice(faults[rng.choice(list(faults))])
        where[name] = rng.choice(what)
        if where[name] is MISSING:
            del where[name]
        return graph

    def any(self) -> dict[str, Any]:
        kinds = [self.pictures, self.texts, self.spoiled, self.spoiled]
        return self.rng.choice(kinds)()


ODD_TEXTS = {"": 1, "k" * 100: "long", "\u00e4": None}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_any_kind_are_loaded_alike(pair, name):
    """Transparent by a colour or an alpha, or cut off."""
    fields = {"overwrite": "true"}
    pair.ask(Ask("POST", "/upload/image", *multipart(fields, PICTURES[name], name)))
    pair.run({"prompt": loading(name)})


@pytest.mark.parametrize(
    ("class_type", "inputs", "extra"),
    [
        ("SaveImage", {"images": ["1", 0], "filename_prefix": "/etc/a"}, {}),
        ("PreviewImage", {"images": ["1", 0]}, {"extra_pnginfo": ODD_TEXTS}),
        ("PreviewImage", {"images": ["1", 0]}, {"extra_pnginfo": {"\u4f60": 1}}),
    ],
)
def test_pictures_are_saved_alike(pair, class_type, inputs, extra):
    """Or refused in the same words: outside of the folder, under keys that PNG forbids."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": class_type, "inputs": inputs},
    }
    pair.run({"prompt": graph, "extra_data": extra})


@pytest.mark.parametrize(
    ("class_type", "name", "size"),
    [("SaveImage", "images", 1), ("SaveImage", "images", 2), ("ImageInvert", "image", 1)],
)
def test_a_batch_in_the_place_of_a_tuple_is_taken_alike(pair, class_type, name, size):
    """Its first picture, row by row; what works with whole pictures fails."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "testbed.png"}},
        "2": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}},
        "3": {"class_type": "TestBareBatch", "inputs": {"image": [str(size), 0]}},
        "4": {"class_type": class_type, "inputs": {name: ["3", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }
    if class_type == "SaveImage":
        graph["4"]["inputs"]["filename_prefix"] = "bare"
        del graph["5"]
    run = pair.run({"prompt": graph})
    assert len(run.pictures) == 64  # its height
    assert run.pictures[0][1:3] == ["L", [3, 96]]


def test_an_unknown_blend_mode_has_the_same_error(pair):
    """Where it is not refused before."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    blend = {"image1": ["1", 0], "image2": ["1", 0], "blend_factor": 0.5, "blend_mode": "x"}
    pair.run(
        {
            "prompt": {
                "1": {"class_type": "EmptyImage", "inputs": size},
                "2": {"class_type": "ImageBlend", "inputs": blend},
                "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
            }
        }
    )


def test_workflows_run_alike(pair):
    """Events one by one, history, and pictures to the pixel; also again, and slightly changed."""
    rng = random.Random(f"workflows {SEED}")
    graphs = Graphs(rng)
    for number in range(COUNT // 3):
        graph = graphs.any()
        run = pair.run({"prompt": graph})
        if run.history and rng.random() < 0.5:
            if rng.random() < 0.5:
                node = graph[rng.choice(list(graph))]
                node["inputs"] |= {"color": number} if "color" in node["inputs"] else {}
                node["inputs"] |= {"choose": "a"} if "choose" in node["inputs"] else {}
            pair.run({"prompt": graph}, rng.choice([CLIENT, f"{CLIENT}b"]))
