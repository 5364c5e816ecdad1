"""The recordings of Managers, asked again of the packs that the embedded server plays.

Recordings are played in their order.  Simulated time stands still while requests are asked, and
goes on until the events have come that had come there.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import attrs
import requests

from comfy_client.testing import ComfyServer, ListedPack, Manager3, Manager4, Manager4Legacy
from tests.helpers.bare import Socket
from tests.helpers.clients import until
from tests.helpers.recordings import RECORDINGS

from .alike import whole

LIMIT = 30.0
_SPEED = 30.0
_CLOUD = ListedPack(name="cloud-pack", url="http://GITHOST/cloud-pack", title="Cloud Test Pack")
_BY_FILE = attrs.evolve(_CLOUD, url="file://PACKS/cloud-pack")
_CNR = ListedPack(name="cnr-pack", url="http://GITHOST/cnr-pack", version="1.0.0")
_BAD = ListedPack(
    name="bad-pack", url="http://GITHOST/bad-pack", import_error="no module no_such_module_xyz"
)
_MISSING = "http://127.0.0.1:28399/none.safetensors"

#: Requests that are not compared, by scenario and line, and why.
LEFT: Mapping[str, str] = {
    r".* GET .*queue/history_list": "of batches from before the recording",
    r"updates GET .*queue/(status|history).*": "a folder that was no pack was updated, too",
    r"batch_history GET .*queue/history.*": "of an earlier recording of the same server",
    r"poisoned_after GET .*queue/history": "it was cut off",
}
#: Requests of which only the kinds of values are compared, and why.
KINDS: Mapping[str, str] = {
    r".* GET .*/(getmappings|getlist|alternatives)\?mode=.*": "another list",
    r"(reading|snapshots) GET .*/snapshot/(getlist|get_current)": "what it had before",
    r"reading GET .*/channel_url_list": "it had been set before, or not",
    r"many(_absent_pack)? GET .*queue/(status|history)": "of earlier recordings, too",
    r"install(_file_url)? GET .*queue/history": "of earlier recordings, too",
}
#: What differs between two runs, and how it looks.
_WORDS = (
    (r"batch_\d{8}_\d{6}_[0-9a-f]{8}", "BATCH"),
    (r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_snapshot", "SNAPSHOT"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?", "TIME"),
    (r"\b[0-9a-f]{40}\b", "COMMIT"),
    (r"^.*/custom_nodes/", "BASE/custom_nodes/"),
    (r"(?s)Traceback .*", "(a traceback)"),
    (r"(?s)(input_value|input_typ).*", "(what pydantic says of it)"),
)


@attrs.frozen
class Case:
    """Recordings that one server said one after the other, and how it began."""

    folder: str
    names: tuple[str, ...]
    manager: type[Any] = Manager4
    version: str = "0.33"
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return f"{self.folder}-{'-'.join(self.names)}"


def cases() -> Iterator[Case]:
    """Yield all recordings, each once."""
    has = {"packs": [_CLOUD], "installed": ["cloud-pack"]}
    lacks = {"packs": [_CLOUD]}
    by_file = {"packs": [_BY_FILE]}
    for options, *names in (
        (lacks, "settings", "reading"),
        (lacks, "snapshots"),
        (lacks, "install"),
        (lacks, "uninstall"),
        (lacks, "disable_enable_absent_pack"),
        (lacks, "many_absent_pack"),
        (lacks, "update_fix_absent_pack"),
        (lacks, "poison"),
        (lacks, "updates"),
        (lacks, "reboot"),
        (has, "disable_enable"),
        (has, "many"),
        (has, "update_fix"),
        (by_file, "install_file_url"),
        (by_file, "refusals", "poisoned_queue", "poisoned_after"),
        ({"online": False}, "offline_install"),
        ({"unreachable": [_MISSING]}, "model"),
    ):
        yield Case("manager4", tuple(names), options=options)
    offline = {"online": False, "security_level": "weak", "packs": [_CNR, _BAD]}
    both = {**offline, "installed": ["cnr-pack", "bad-pack"]}
    yield Case("manager4-cnr", ("cnr", "batch_history"), options=both)
    for options, *names in (
        (lacks, "reading"),
        (lacks, "install"),
        (lacks, "reboot"),
        (has, "disable_enable"),
        (has, "uninstall"),
    ):
        yield Case("manager4-on-0.3.75", tuple(names), version="0.3.75", options=options)
    weak = {**lacks, "disabled": ["cloud-pack"], "security_level": "weak", "allow_git_url": True}
    for name in ("reading", "legacy"):
        yield Case("manager4-legacy", (name,), Manager4Legacy, options=weak)
    for options, *names in (
        (lacks, "reading"),
        (lacks, "cycle"),
        (by_file, "cycle_file_url"),
        (lacks, "model"),
        (lacks, "reboot"),
        (lacks, "refusals"),
        (lacks, "snapshots"),
    ):
        version = "0.3.75"
        yield Case("manager3", tuple(names), Manager3, version, {**options, "online": False})


@cache
def recorded(folder: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each recording."""
    data = gzip.decompress((RECORDINGS / "packs" / f"{folder}.jsonl.gz").read_bytes())
    found: dict[str, list[dict[str, Any]]] = {}
    for line in data.decode().splitlines():
        row = {"status": None, "response": None, **json.loads(line)}
        found.setdefault(row.pop("scenario"), []).append(row)
    return found


def plain(value: Any, done: int = 0) -> Any:
    """A value without what differs between two runs; ``done`` is counted from there."""
    if isinstance(value, dict):
        told = {plain(key): plain(one, done) for key, one in value.items()}
        if "done_count" in told and "client_id" not in told and "status" not in told:
            told["done_count"] -= done
        if "pips" in told:
            told["pips"] = "(packages)"
        return told
    if isinstance(value, list):
        return [plain(one, done) for one in value]
    if isinstance(value, str):
        for pattern, word in _WORDS:
            value = re.sub(pattern, word, value)
    return value


def kinds(value: Any) -> Any:
    """The types of a value; of a dict with two texts and more, its keys."""
    return sorted(value) if isinstance(value, dict) and len(value) < 3 else type(value).__name__


class Ear(Socket):
    """A socket, and the events of packs that came by it."""

    def __init__(self, server: ComfyServer, client_id: str) -> None:
        super().__init__(server, client_id)
        self.heard: list[Any] = []
        self.expected: list[Any] = []

    def listen(self) -> None:
        """Wait for as many events as had come there."""
        while len(self.heard) < len(self.expected):
            message = self.next()
            if isinstance(message, dict) and message["type"].startswith("cm-"):
                self.heard.append(message)


class Player:
    """A recording and the server that is asked again."""

    def __init__(self, server: ComfyServer, rows: list[dict[str, Any]], name: str) -> None:
        self.server, self.rows, self.name = server, rows, name
        self.ears: dict[str, Ear] = {}
        self.differences: list[str] = []
        self.compared = 0
        self._done: tuple[int, int] | None = None  # how many tasks were done at first
        self._snapshot = ""

    def play(self) -> None:
        """Ask all again, and keep the differences."""
        self.server.pause()
        for row in self.rows:
            if row["kind"] == "open":
                self.ears[row["ch"]] = Ear(self.server, row["client_id"])
            elif _is_compared(row):
                self.ears[row["ch"]].expected.append(row["msg"])
            elif row["kind"] == "http":
                if not row["path"].endswith("queue/start"):  # whose events may come before it
                    self._listen()
                self._ask(row)
        self._listen()
        for ear in self.ears.values():
            for there, here in zip(ear.expected, ear.heard, strict=True):
                self._same(f"event {there['type']}", event(there), like(event(here), event(there)))

    def _listen(self) -> None:
        self.server.resume()
        for ear in self.ears.values():
            ear.listen()
        self.server.pause()

    def _ask(self, row: dict[str, Any]) -> None:
        line = f"{self.name} {row['method']} {row['path']}"
        if row["status"] == 200 and row["path"] == "/prompt":
            self.server.resume()
            until(lambda: self._answer(row) is not None, LIMIT)  # it is back
        if row["method"] == "GET" and self._is_over(row):
            self._until_idle(row)
        if row["path"].endswith("queue/start") and row["status"] == 200:
            self._until_idle({"method": "GET", "path": row["path"].replace("start", "status")})
        answer = self._answer(row)
        if answer is None or row["status"] is None:
            self._same(line, row["status"], answer and answer.status_code)
            return
        here = _decoded(answer)
        if row["path"].endswith("snapshot/getlist") and here["items"]:
            self._snapshot = here["items"][0]
        if any(re.fullmatch(pattern, line) for pattern in LEFT):
            return
        there = "" if row["response"] is None else whole(row["response"])
        if "queue/status" in row["path"]:
            self._done = self._done or (there["done_count"], here["done_count"])
        first = self._done or (0, 0)
        there, here = plain(there, first[0]), plain(here, first[1])
        if any(re.fullmatch(pattern, line) for pattern in KINDS):
            if there == "(a list)":
                there = here
            there, here = kinds(there), kinds(here)
        elif "queue/status" in row["path"] and there["is_processing"]:
            there, here = sorted(there), sorted(here)  # how far its worker was is a race
        kept = {
            name.replace("_", "-"): row[name] for name in ("content_type", "allow") if name in row
        }
        found = {name: answer.headers.get(name) for name in kept}
        told = [row["status"], kept, there], [answer.status_code, found, here]
        self._same(line, *told)

    def _is_over(self, row: dict[str, Any]) -> bool:
        response = row["response"]
        return isinstance(response, dict) and response.get("is_processing") is False

    def _until_idle(self, row: dict[str, Any]) -> None:
        """Wait until the worker has ended, as there."""

        def is_idle() -> bool:
            answer = self._answer(row)
            return answer is not None and not answer.json().get("is_processing")

        if not is_idle():
            self.server.resume()
            until(is_idle, LIMIT)
            self.server.pause()

    def _answer(self, row: dict[str, Any]) -> requests.Response | None:
        body, headers = row.get("request"), {}
        found = re.fullmatch(r"\{\} as (.*)", body) if isinstance(body, str) else None
        data = None if body is None else json.dumps(body)
        if found:
            data, headers = "{}", {"Content-Type": found[1]}
        elif body == "(the url as text)":
            data = _CLOUD.url
        elif data is not None:
            headers = {"Content-Type": "application/json"}
        path = re.sub(r"target=\d.*", f"target={self._snapshot}", row["path"])
        try:
            return requests.request(
                row["method"], self.server.url + path, data=data, headers=headers, timeout=LIMIT
            )
        except requests.ConnectionError:
            return None

    def _same(self, line: str, there: Any, here: Any) -> None:
        self.compared += 1
        if there != here:
            there, here = json.dumps(there, sort_keys=True), json.dumps(here, sort_keys=True)
            self.differences.append(f"{line}\n  real     {there}\n  embedded {here}")


def _is_compared(row: dict[str, Any]) -> bool:
    """Whether a row is an event of a pack, but not that of what was no pack."""
    is_event = row["kind"] == "json" and row["msg"]["type"].startswith("cm-")
    return is_event and row["msg"]["data"].get("ui_id") != "upd_broken-pack"


def _decoded(answer: requests.Response) -> Any:
    """The body of an answer; of an answer of 404, none, as the recording has none."""
    try:
        return answer.json()
    except ValueError:
        return "" if answer.status_code == 404 else answer.text


def event(message: dict[str, Any]) -> Any:
    """An event without times; of the state it tells, the tasks of now and the packs."""
    data = {**message["data"]}
    state = data.get("state")
    if isinstance(state, dict):
        data["state"] = {name: plain(one) for name, one in state.items() if name != "history"}
        running = state["running_queue"]
        data["state"]["running_queue"] = running
        data["state"]["pending_queue"] = "(a race)"
    return [message["type"], plain(data)]


def like(here: Any, there: Any) -> Any:
    """Of an event, the keys that the recording has, which was cut off if it is long."""
    return [here[0], {key: one for key, one in here[1].items() if key in there[1]}]


def play(case: Case) -> Player:
    """Play the recordings of a case; return the player of the last, with all differences."""
    options: dict[str, Any] = {"version": case.version, "allowed_hosts": ["*"]}
    manager = case.manager(**case.options)
    found: list[str] = []
    compared = 0
    with ComfyServer(packs=[manager], speed=_SPEED, **options) as server:
        for name in case.names:
            player = Player(server, recorded(case.folder)[name], name)
            try:
                player.play()
            finally:
                server.resume()
                for ear in player.ears.values():
                    ear.ws.close()
            found += player.differences
            compared += player.compared
    player.differences, player.compared = found, compared
    return player
