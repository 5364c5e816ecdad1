"""One recording, played to an embedded server: what it asks is asked again, in the same order.

Before each request, the server is brought to where the real one was: all messages that had come
there have come here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import attrs
import websocket

from comfy_client.testing import ComfyServer, send_text
from tests.helpers.clients import until
from tests.helpers.differential import LIMIT, Ask, Side
from tests.helpers.recordings import RECORDINGS
from tests.helpers.servers import add_test_content

from . import alike
from .graphs import part_of, workflows

#: By version of the embedded server: whose recordings it is held to.
RECORDED = {"0.3.75": "0.3.75", "0.28": "0.28.1", "0.33": "0.28.1"}
#: Requests that cannot be asked again.
LOST = {
    r"assets_on (GET|POST|PUT|DELETE) /(api/|upload/|features).*": "assets are switched off",
    r"headers (POST /upload/image|GET /(view\?filename=pr|history).*)": "the files are not there",
    r"internal GET /view.*": "another file",
}
#: Sockets open or close in these while a prompt runs, so which messages they get is a race.
_RACES = {
    *("old_socket_closes", "reconnect", "reconnect_feature_flags", "reconnect_flags_forgotten"),
    "second_socket",
}
#: Node ids that a prompt without a client found cached, of which no event told.
_CACHED = {"no_client_id": ["4", "5", "6", "7"]}
_STEP = 0.02
_PATIENCE = 3.0  # seconds until what has not come is said to differ
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MODELS = {"diffusion_models": "unet", "text_encoders": "clip", "vae": "vae"}


@attrs.frozen
class Finding:
    """One comparison: of a route or of a kind of message, and where the two differ."""

    subject: str
    by: str = ""  #: "": all of it was compared; else why only the kinds of values were.
    differences: tuple[str, ...] = ()


@cache
def names(recorded: str) -> list[str]:
    """The recordings of a version, but for those in which messages race with sockets."""
    found = {path.stem for path in (RECORDINGS / recorded).glob("*.jsonl")}
    return sorted(found - _RACES)


class GetImageSize:
    """The node that sends a text, which its stand-in would not."""

    RETURN_TYPES = ("INT", "INT", "INT")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image: Any) -> tuple[int, int, int]:
        width, height = image[0].size
        send_text(f"width: {width}, height: {height}\n batch size: {len(image)}")
        return width, height, len(image)


class Ear:
    """A socket, and all that came by it."""

    def __init__(self, port: int, client_id: str) -> None:
        url = f"ws://127.0.0.1:{port}/ws?clientId={client_id}"
        self._ws = websocket.create_connection(url, timeout=LIMIT)
        self.heard: list[tuple[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(Exception):
            while True:
                self.heard.append(alike.message(self._ws.recv()))

    def send(self, message: Any) -> None:
        self._ws.send(json.dumps(message))

    def close(self) -> None:
        with contextlib.suppress(websocket.WebSocketException, OSError):
            self._ws.send_close()
        self._thread.join(LIMIT)
        self._ws.shutdown()


class Player:
    """The two sides of a recording that is played."""

    def __init__(self, server: ComfyServer, recorded: str, name: str) -> None:
        text = (RECORDINGS / recorded / f"{name}.jsonl").read_text(encoding="utf-8")
        self.rows = [json.loads(line) for line in text.splitlines()]
        self.name = name
        self.server = server
        self.there, self.here = Side("recorded", 0), Side("embedded", server.port)
        self.ears: dict[str, Ear] = {}
        self.told: dict[str, list[tuple[str, Any]]] = {}  # by channel, what had come there
        self.findings: list[Finding] = []
        self._users: dict[str, str] = {}
        answers = [row["response"] for row in self.rows if row["kind"] == "http"]
        #: The prompts of this recording.
        self._own = {
            one["prompt_id"] for one in answers if isinstance(one, dict) and "prompt_id" in one
        }
        self._patience = _PATIENCE
        self.graphs = [*self._with_recorded()]

    def _with_recorded(self) -> Iterator[Any]:
        """The workflows, or those that the jobs API told of the same prompts."""
        answers = [row["response"] for row in self.rows if row["kind"] == "http"]
        told = {
            answer["id"]: answer["workflow"]["prompt"]
            for answer in answers
            if isinstance(answer, dict) and isinstance(answer.get("workflow"), dict)
        }
        steps: dict[str, int] = {}
        for row in self.rows:
            if row["kind"] == "json" and row["msg"]["type"] == "progress":
                steps.setdefault(row["msg"]["data"]["prompt_id"], row["msg"]["data"]["max"])
        again: dict[int, Any] = {}
        graphs = workflows(self.name)
        for row in self._prompts():
            graph = next(graphs, None)
            if graph is None:
                return
            prompt_id = row["response"]["prompt_id"] if row["status"] == 200 else ""
            yield again.setdefault(
                id(graph), _with_steps(told.get(prompt_id, graph), steps.get(prompt_id))
            )

    def _prompts(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == "http" and _has_word(row)]

    # -- before -------------------------------------------------------------------------

    def prepare(self) -> None:
        """Have in the cache what the first prompt found there."""
        told = (row["msg"] for row in self.rows if row["kind"] == "json")
        first = next((msg for msg in told if msg["type"] == "execution_cached"), None)
        cached = first["data"]["nodes"] if first else _CACHED.get(self.name, [])
        accepted = [row["status"] == 200 for row in self._prompts()]
        if not cached or len(self.graphs) < len(accepted):
            return
        graph = part_of(self.graphs[accepted.index(True)], cached)
        answer = self.here.raw(Ask("POST", "/prompt", json.dumps({"prompt": graph}).encode()))
        prompt_id = json.loads(answer[2])["prompt_id"]
        until(lambda: self.here.json(f"/history/{prompt_id}"))
        self.here.until_idle()

    # -- playing ------------------------------------------------------------------------

    def play(self) -> list[Finding]:
        """Ask all again, and return the findings."""
        self._left = [*self.graphs]
        self._asked = ""  # the last cancel, if nothing has come since
        for row in self.rows:
            match row["kind"]:
                case "json" | "binary":
                    self.told.setdefault(row["ch"], []).append(alike.recorded_message(row))
                case "open":
                    self._catch_up()
                    self.ears[row["ch"]] = Ear(self.server.port, row["client_id"])
                    self._catch_up()
                case "sent":
                    self.ears[row["ch"]].send(row["msg"])
                case "closed":
                    self._catch_up()
                    self.ears[row["ch"]].close()
                case "http":
                    self._exchange(row)
                    is_cancel = row["path"].endswith("/cancel")
                    self._asked = f"{row['method']} {row['path']}" if is_cancel else ""
                    continue
            self._asked = ""
        for ear in self.ears.values():
            ear.close()
        for channel, told in self.told.items():
            self._hear(told, self.ears[channel].heard)
        return self.findings

    def _catch_up(self) -> None:
        """Wait until what had come there by now has come here."""

        def has_come(channel: str, told: list[tuple[str, Any]]) -> bool:
            heard = [*self.ears[channel].heard]
            there, here = _milestones(told), _milestones(heard)
            if not heard or there - here:
                return False
            return _has_ticks(heard) or not _has_ticks(told) or bool(here - there)

        self._wait(lambda: all(has_come(ch, told) for ch, told in self.told.items()))
        said = [data for told in self.told.values() for kind, data in told if kind == "status"]
        wanted = [*(data["status"]["exec_info"] for data in said[-2:]), {"queue_remaining": 0}]
        if said:
            self._wait(lambda: self.here.json("/prompt")["exec_info"] in wanted)

    def _wait(self, found: Callable[[], object]) -> None:
        """Wait for what must come; once it did not, nothing is waited for as long."""
        try:
            until(found, self._patience)
        except AssertionError:
            self._patience = 0.1

    def _exchange(self, row: dict[str, Any]) -> None:
        subject = f"{row['method']} {row['path']}"
        lost = next(
            (
                why
                for pattern, why in LOST.items()
                if re.fullmatch(pattern, f"{self.name} {subject}")
            ),
            None,
        )
        self._catch_up()
        if lost:
            return
        ask = self._ask(row)
        if ask is None:
            return
        self._await_record(row)
        status, headers, body = self.here.raw(ask)
        if row["path"] == "/users" and row["method"] == "POST" and status == 200:
            self._users[row["response"]] = json.loads(body)
        self._compare(row, subject, status, headers, body)

    def _await_record(self, row: dict[str, Any]) -> None:
        """Wait for the record of a prompt that had ended there."""
        found = re.fullmatch(r"(?:/api)?/(history|jobs)/([^/?]+)", row["path"])
        if not found or row["method"] != "GET" or row["status"] != 200 or not row["response"]:
            return
        path = self._named(row["path"].replace("/api/jobs/", "/history/"))
        is_running = '"status": "in_progress"' in json.dumps(row["response"])
        is_pending = '"status": "pending"' in json.dumps(row["response"])
        if not is_running and not is_pending:
            self._wait(lambda: self.here.json(self.here.filled(path)))

    def _ask(self, row: dict[str, Any]) -> Ask | None:
        """The request again; None if what was sent is not known."""
        body = row.get("text")
        if body is None and row.get("request") is not None:
            request = row["request"]
            if _has_word(row):
                if not self._left:
                    return None
                request = {**request, "prompt": self._left.pop(0)}
            body = json.dumps(request)
        body = None if body is None else self._named(body)
        headers = {
            name: self._users.get(value, value).replace(":19400", ":<port>")
            for name, value in (row.get("request_headers") or {}).items()
        }
        path = self._named(row["path"])
        for name, value in self._users.items():
            path = path.replace(name, value)
        return Ask(row["method"], path, None if body is None else body.encode(), headers)

    def _named(self, text: str) -> str:
        """With names in place of ids, which an id that no server told keeps here."""

        def name(found: re.Match[str]) -> str:
            named = self.there.named(found[0])
            if named not in self.here.ids.values():
                self.here.ids[found[0]] = named
            return named

        return _ID.sub(name, text)

    def _compare(
        self, row: dict[str, Any], subject: str, status: int, headers: Any, body: bytes
    ) -> None:
        there, here = alike.whole(row["response"]), _decoded(body)
        by = alike.compared_by(subject.replace(" /api/", " /"))
        if isinstance(there, str) and not isinstance(here, str) and there[:1] != "(":
            here = body.decode("utf-8", "replace")
        if isinstance(there, dict) and "(keys only)" in there:
            there = there["(keys only)"]
            here = [*here] if isinstance(here, dict) else here
        there = alike.own_jobs(there, self._own)
        there = alike.sorted_if_listed(subject, alike.comparable(self.there, there))
        named = {self.there.named(one) for one in _ids_of(there)}
        here = alike.own_jobs(here, {one for one, name in self.here.ids.items() if name in named})
        here = alike.sorted_if_listed(subject, alike.comparable(self.here, here))
        if self._asked == subject:
            by = "asked twice at once"
        if alike.is_cut(row):
            here = alike.like(there, here)
        if "len" in row and not row["response"]:
            there = here = None
        if by and row["status"] == status == 200:
            there, here = alike.kinds(there), alike.kinds(here)
        kept = {**(row.get("response_headers") or {})}
        if row.get("content_type"):
            kept["Content-Type"] = row["content_type"]
        wanted = {"status": row["status"], "headers": kept, "body": there}
        found = {"status": status, "headers": {key: headers.get(key) for key in kept}, "body": here}
        self.findings.append(Finding(subject, by, tuple(alike.unlike(wanted, found))))

    # -- messages -----------------------------------------------------------------------

    def _hear(self, told: list[tuple[str, Any]], heard: list[tuple[str, Any]]) -> None:
        kinds = [kind for kind, _ in heard]
        if "feature_flags" in kinds:  # until then, previews are of the old kind
            first = kinds.index("feature_flags")
            early = [one for one in heard[:first] if not one[0].startswith("binary")]
            heard = [*early, *heard[first:]]
        there = [(k, alike.comparable(self.there, d)) for k, d in alike.story(told)]
        here = [(k, alike.comparable(self.here, d)) for k, d in alike.story(heard)]
        real, own = _by_prompt(there), _by_prompt(here)
        for prompt, messages in real.items():
            self._follow(messages, own.get(prompt, []))
        said = [
            alike.comparable(*one)
            for one in ((self.there, alike.remaining(told)), (self.here, alike.remaining(heard)))
        ]
        self.findings.append(Finding("message status", "", tuple(alike.unlike(*said))))

    def _follow(self, there: list[tuple[str, Any]], here: list[tuple[str, Any]]) -> None:
        """Compare what was said about one prompt."""
        for (kind, real), (own_kind, own) in itertools.zip_longest(
            there, here, fillvalue=("nothing", None)
        ):
            if kind == "execution_interrupted" and alike.is_tick(own_kind):
                return  # it came a node later
            if kind != own_kind:
                told = f"message: real {json.dumps(kind)}\n  embedded {json.dumps(own_kind)}"
                self.findings.append(Finding(f"message {kind}", "", (told,)))
                return
            self.findings.append(Finding(f"message {kind}", "", tuple(alike.unlike(real, own))))


def _with_steps(graph: Any, steps: int | None) -> Any:
    """A workflow whose sampler takes as many steps as the recorded one."""
    if steps is None or graph.get("3", {}).get("class_type") != "KSampler":
        return graph
    sampler = graph["3"]
    return {**graph, "3": {**sampler, "inputs": {**sampler["inputs"], "steps": steps}}}


def _by_prompt(messages: list[tuple[str, Any]]) -> dict[str, list[tuple[str, Any]]]:
    """Messages by the prompt that they are about, or that came last before them."""
    found: dict[str, list[tuple[str, Any]]] = {}
    prompt = ""
    for kind, data in messages:
        if isinstance(data, dict) and (kind == "status" or "prompt_id" in data):
            prompt = data.get("prompt_id", "" if "sid" in data else prompt)
        found.setdefault(prompt, []).append((kind, data))
    return found


def _has_word(row: dict[str, Any]) -> bool:
    request = row.get("request")
    return isinstance(request, dict) and request.get("prompt") == "(a workflow)"


def _milestones(messages: list[tuple[str, Any]]) -> Counter[str]:
    """How often there were messages of each kind that come one by one."""
    names = ("executing", "executed", "execution_", "feature_flags")
    return Counter(kind for kind, _ in messages if kind.startswith(names))


def _ids_of(answer: Any) -> list[str]:
    """The jobs that a list has."""
    jobs = answer.get("jobs") if isinstance(answer, dict) else None
    return [job["id"] for job in jobs] if isinstance(jobs, list) else []


def _has_ticks(messages: list[tuple[str, Any]]) -> bool:
    """Whether there is progress after the last message of another kind."""
    for kind, _ in reversed(messages):
        if kind in ("progress", "binary 1", "binary 4"):
            return True
        if kind.startswith(("executing", "executed", "execution_")):
            return False
    return False


def _decoded(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def play(version: Any, name: str) -> list[Finding]:
    """Play a recording to an embedded server of a version."""
    recorded = RECORDED[version]
    options: dict[str, Any] = {"multi_user": name == "multi_user", "allowed_hosts": ["*"]}
    definitions = {"0.3.75": "0.3.75", "0.28": "0.28.1", "0.33": "0.33.0"}[version]
    with ComfyServer(
        version=version,
        object_info=definitions,
        models="touched",
        inputs="real",
        step_seconds=_STEP,
        **options,
    ) as server:
        add_test_content(server)
        server.add_node(GetImageSize)
        for folder, name_of in _MODELS.items():
            file = server.root / "models" / folder / f"tiny_{name_of}.ckpt"
            file.parent.mkdir(exist_ok=True)
            file.touch()
        player = Player(server, recorded, name)
        player.prepare()
        return player.play()
