"""The embedded server of version "0.28" is asked what a ComfyUI 0.28.1 was, and says the same.

The requests are those of ``recordings/0.28.1``, as far as they do not depend on what else that
server had: other nodes, other files, a graph that the recording does not hold.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client.testing import ComfyServer
from comfy_client.testing.versions import Version
from tests.helpers.differential import Ask, Side, differences
from tests.helpers.recordings import RECORDINGS

#: Requests whose answers changed later.
CHANGED = {"0.28": r"(?!)", "0.33": r"system GET /models$"}
#: Requests that are not compared, and why.
LEFT_OUT = {
    # the files, nodes and packs of that server, and what it ran on
    r"system GET /(system_stats|experiment/models(/checkpoints)?|global_subgraphs|extensions)?$",
    r"system GET /(models/checkpoints|object_info/(ResizeImageMaskNode|BatchImagesNode))$",
    r"assets_off GET /assets$",
    r"internal GET /(internal/(files/\w+|folder_paths|logs.*)|view.*|history/.*)$",
    r"node_replacements GET /(object_info/ResizeImagesByLongerEdge|history/.*)$",
    r"headers (GET /(history/.*|view\?filename=pr.*)|POST /upload/image)$",
    r"validation_new GET /history/.*$",
    # what its queue held
    r"prompt_id_rules (GET /(queue|history/.*)|POST /api/jobs/.*)$",
    r"jobs_cancel_bulk (GET /api/.*|POST /api/jobs/cancel .*5e61eef1.*)$",
    # graphs that stand there by a word, or have nodes that this server lacks
    r"\w+ POST /prompt (?!.*\"class_type\")(?!null|\[\]|\{\"prompt\": (null|\[\]|\{\}|\"x\")).*$",
    r"\w+ POST /prompt .*(ResizeImageMaskNode|BatchImagesNode|KSamplerSelect|replaced).*$",
    r"node_replacements GET /api/node_replacements$",  # only its beginning
}
TIMES = {"modified", "created"}
#: Our own word, paths of that server, and what depends on the order of a set there.
UNTOLD = {"hint", "traceback", "dependent_outputs"}


def rows(name: str) -> Iterator[dict[str, Any]]:
    for line in (RECORDINGS / "0.28.1" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] == "http":
            yield row


def told(row: dict[str, Any]) -> str:
    """A request in one line."""
    headers = row.get("request_headers")
    parts = [row["path"], json.dumps(row["request"]), json.dumps(headers) if headers else ""]
    return f"{row['method']} {' '.join(parts)}".replace(" null", "").strip()


def alike(value: Any, key: str = "") -> Any:
    """With the kind of number in place of a time, without ids and tracebacks."""
    if isinstance(value, dict):
        if value.get("name") == "KSampler":
            value = {**value, "description": "of a real sampler"}
        return {alike(k): alike(v, k) for k, v in value.items() if k not in UNTOLD}
    if isinstance(value, list):
        items = [alike(one) for one in value]
        is_unordered = key in ("errors", "")  # of a set, or of the disk
        return sorted(items, key=json.dumps) if is_unordered else items
    if key in TIMES:
        return "milliseconds" if isinstance(value, int) and value > 1e12 else type(value).__name__
    if key in ("prompt_id", "number"):
        return type(value).__name__
    return re.sub(r"(_)[0-9a-f-]{36}$", r"\1", value) if isinstance(value, str) else value


def asked(row: dict[str, Any], server: Side, names: dict[str, str]) -> Ask:
    body = row.get("text")
    if body is None and row["request"] is not None:
        body = json.dumps(row["request"])
    headers = {
        name: names.get(value, value).replace(":19400", ":<port>")
        for name, value in (row.get("request_headers") or {}).items()
    }
    return Ask(row["method"], row["path"], None if body is None else body.encode(), headers)


SCENARIOS = {
    "system": 23,
    "userdata": 42,
    "internal": 2,
    "headers": 18,
    "assets_off": 14,
    "multi_user": 22,
    "validation_new": 20,
    "node_replacements": 2,
    "prompt_id_rules": 11,
    "jobs_cancel_bulk": 13,
}


@pytest.mark.parametrize("version", ["0.28", "0.33"])
@pytest.mark.parametrize(("name", "least"), SCENARIOS.items())
def test_version_0_28_answers_as_recorded(name: str, least: int, version: Version) -> None:
    """Status, the headers that were written down, and body; of 0.33, too, but for what changed."""
    compared = 0
    wrong: list[str] = []
    names: dict[str, str] = {}  # of users, there and here
    options = {"multi_user": name == "multi_user", "allowed_hosts": ["*"]}
    with ComfyServer(version=version, **options) as server:
        (server.root / "models/checkpoints/simulated.safetensors").rename(
            server.root / "models/checkpoints/tiny.ckpt"
        )
        side = Side("embedded", server.port)
        for row in rows(name):
            line = told(row)
            left_out = {*LEFT_OUT, CHANGED[version]}
            if any(re.fullmatch(pattern, f"{name} {line}") for pattern in left_out):
                continue
            compared += 1
            status, headers, body = side.raw(asked(row, side, names))
            there, here = row["response"], body.decode()
            with contextlib.suppress(ValueError):
                here = json.loads(here)
            if isinstance(there, str) and not isinstance(here, str):
                here = body.decode()
            if row["path"] == "/users" and row["method"] == "POST" and status == 200:
                names[there] = here
            kept = {key: headers.get(key) for key in row.get("response_headers") or {}}
            found = {"status": status, "headers": kept, "body": alike(here)}
            real = {
                "status": row["status"],
                "headers": row.get("response_headers") or {},
                "body": alike(there),
            }
            wrong += [f"{line}\n{one}" for one in differences(real, found)]
    assert not wrong, "\n".join(wrong[:20])
    assert compared >= least
