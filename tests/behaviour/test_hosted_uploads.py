"""Files of workflows become assets of Comfy API v2: hash first, each once, never half."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import OutputFile, Upload, Workflow
from comfy_client.credentials import BearerCredentials
from comfy_client.errors import (
    AuthenticationError,
    ClientClosed,
    Conflict,
    NotSupported,
    TransportError,
    UploadTooLarge,
)
from comfy_client.hosted.assets import Digests, KnownAssets, UploadedAsset, unique_name
from comfy_client.hosted.dialect import HOSTED
from comfy_client.hosted.files import AssetFiles
from comfy_client.hosted.models import Asset
from comfy_client.hosted.routes import HostedRoutes
from comfy_client.routes.prompts import with_files_sent
from comfy_client.testing import ComfyServer, hosted_error
from comfy_client.transport.deadline import Deadline
from comfy_client.workflow import check_graph
from comfy_client.workflow.edit import graph_of
from tests.helpers.clients import LIMIT
from tests.helpers.graphs import node
from tests.helpers.hashes import hash_of, install, uninstall
from tests.helpers.http import SECRET, opened

ASSETS = "/v2/assets"
FROM_HASH = "/v2/assets/from-hash"
PICTURE = {
    "1": node("EmptyImage", width=16, height=16, color=7, batch_size=1),
    "2": node("SaveImage", images=["1", 0], filename_prefix="x"),
}
CONTENT = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is installed."""
    install(monkeypatch)


@pytest.fixture
def no_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed."""
    uninstall(monkeypatch)


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(hosted="proxy", credentials=SECRET) as server:
        yield server


@pytest.fixture
def files(server: ComfyServer) -> Iterator[AssetFiles]:
    with opened(server.url, dialect=HOSTED, credentials=BearerCredentials(SECRET)) as http:
        yield AssetFiles(http)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(CONTENT)
    return path


def asked(server: ComfyServer) -> list[str]:
    return [f"{request.method} {request.path}" for request in server.requests]


def sent(server: ComfyServer) -> int:
    """How many times content was sent."""
    return asked(server).count(f"POST {ASSETS}")


def checked(workflow: Workflow) -> dict[str, Any]:
    return check_graph(graph_of(workflow))


def kept(files: AssetFiles, uploaded: UploadedAsset) -> bytes:
    return files.get_image(uploaded)


# -- hash first ----------------------------------------------------------------------------


@pytest.mark.usefixtures("hashes")
def test_bytes_that_the_server_has_are_not_sent(
    server: ComfyServer, files: AssetFiles, photo: Path
) -> None:
    """Neither by this client nor by another one; the hash goes along with the first."""
    first = files.upload_image(photo)
    assert asked(server) == [f"POST {FROM_HASH}", f"POST {ASSETS}"]
    assert hash_of(CONTENT).encode() in server.requests[-1].body
    with opened(server.url, dialect=HOSTED, credentials=BearerCredentials(SECRET)) as http:
        again = AssetFiles(http).upload_image(CONTENT, "other.png")
    assert sent(server) == 1
    assert again.ref == first.ref
    assert again.name == first.name  # the proxy keeps the first name
    assert re.fullmatch("photo-[0-9a-f]{32}[.]png", again.name)
    assert kept(files, again) == CONTENT


@pytest.mark.usefixtures("no_hashes")
def test_without_the_extra_the_content_is_sent(
    server: ComfyServer, files: AssetFiles, photo: Path
) -> None:
    """Once by each client, which remembers it, and asks whether it is still there."""
    first = files.upload_image(photo)
    again = files.upload_image(photo)
    assert asked(server) == [f"POST {ASSETS}", f"GET {ASSETS}/{first.ref['info']['id']}"]
    assert again.ref == first.ref
    assert b"expected_hash" not in server.requests[0].body


@pytest.mark.usefixtures("hashes")
def test_a_server_without_hashes_gets_the_content(
    server: ComfyServer, files: AssetFiles, photo: Path
) -> None:
    """The route is not there."""
    server.on("POST", "/api/v2/assets/from-hash", (405, {"Content-Type": "text/plain"}, "405"))
    assert kept(files, files.upload_image(photo)) == CONTENT
    assert sent(server) == 1


@pytest.mark.usefixtures("no_hashes")
def test_a_deleted_asset_is_sent_again(server: ComfyServer, files: AssetFiles, photo: Path) -> None:
    """By somebody else, or since the proxy was restarted."""
    files.upload_image(photo)
    server.gateway.restart()
    assert kept(files, files.upload_image(photo)) == CONTENT
    assert sent(server) == 2


# -- sources -------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["hashes", "no_hashes"])
def test_every_source_arrives(
    server: ComfyServer, files: AssetFiles, photo: Path, request: Any, extra: str
) -> None:
    """A path, bytes, an open file and a data URL; names are made from the content."""
    request.getfixturevalue(extra)
    for number, source in enumerate((photo, CONTENT + b"1", io.BytesIO(CONTENT + b"2"))):
        uploaded = files.upload_image(source)
        assert kept(files, uploaded) == CONTENT + str(number).encode() * bool(number)
        assert uploaded.name.endswith(".png")
    with photo.open("rb") as stream:
        stream.seek(8)
        assert kept(files, files.upload_image(stream, "rest.bin")) == CONTENT[8:]
        assert stream.tell() == 8


def test_a_name_and_a_folder_are_asked_for(
    server: ComfyServer, files: AssetFiles, photo: Path
) -> None:
    """Below input, as any other first folder is one of models."""
    uploaded = files.upload_image(photo, "me.png", subfolder="3d/x")
    assert (uploaded.name, uploaded.subfolder, uploaded.type) == ("me.png", "3d/x", "input")
    assert (server.root / "input" / "3d" / "x" / "me.png").read_bytes() == CONTENT
    assert uploaded.ref["info"]["file_path"] == "input/3d/x/me.png"
    assert uploaded.to_dict()["ref"] == uploaded.ref


@pytest.mark.parametrize("way", ["upload_image", "Upload"])
@pytest.mark.parametrize(
    ("asked_for", "name"), [("photo.png", "photo-[0-9a-f]{32}[.]png"), ("me.png", "me[.]png")]
)
def test_a_name_is_chosen_if_it_is_another_than_the_files_own(
    server: ComfyServer, files: AssetFiles, photo: Path, way: str, asked_for: str, name: str
) -> None:
    """However it is given: any other has a digest of the content in it."""
    if way == "upload_image":
        uploaded = files.upload_image(photo, asked_for)
    else:
        uploaded = files.upload_image(Upload(photo, asked_for))
    assert re.fullmatch(name, uploaded.name)


def test_a_url_is_fetched_when_it_is_asked_for(
    comfy: ComfyServer, server: ComfyServer, files: AssetFiles
) -> None:
    """Without the token."""
    comfy.on("GET", "/a.png", (200, {"Content-Type": "image/png"}, CONTENT))
    assert kept(files, files.upload_image(f"{comfy.url}/a.png", fetch=True)) == CONTENT
    assert "Authorization" not in comfy.requests[-1].headers


@pytest.mark.usefixtures("no_hashes")
def test_a_url_with_known_content_is_not_sent(
    comfy: ComfyServer, server: ComfyServer, files: AssetFiles
) -> None:
    """It has to be fetched to know that."""
    comfy.on("GET", "/a.png", (200, {"Content-Type": "image/png"}, CONTENT))
    first, second = (files.upload_image(f"{comfy.url}/a.png", fetch=True) for _ in range(2))
    assert first.ref == second.ref
    assert sent(server) == 1


def test_a_client_remembers_a_thousand_uploads() -> None:
    """The oldest is forgotten; a file whose state is unknown is not remembered at all."""
    known, asset = KnownAssets(), Asset.from_json({"id": "a"})
    for number in range(1001):
        known.put((f"{number}", ""), number, asset)
    assert known.get(("0", ""), 0) is None
    assert known.get(("1000", ""), 1000) is asset
    assert known.get(("1000", ""), 7) is None
    known.put(("1000", ""), None, asset)
    assert known.get(("1000", ""), None) is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("{}.png", "{}.png"),
        ("photo-{}.png", "photo-{}.png"),
        ("input/photo-{}.png", "photo-{}.png"),
        ("input/3d/x/{}.glb", "3d/x/{}.glb"),
        ("{} [temp]", "{} [temp] [input]"),
        ("photo.png", None),
        ("loras/{}.safetensors", None),
        ("{}/photo.png", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_name_counts_if_no_other_content_can_have_it(
    path: str | None, name: str | None, which: int
) -> None:
    """It contains SHA-256 or BLAKE3 of the content, computed here or by the server."""
    sha256, ours, told = "a" * 64, "b" * 64, "c" * 64
    digits = (sha256, ours, told)[which][:32]
    known = KnownAssets()
    asset = Asset.from_json(
        {"id": "1", "hash": f"blake3:{told}", "file_path": path and path.format(digits)}
    )
    known.put_name(asset, Digests(sha256, f"blake3:{ours}"))
    assert known.name_of("1") == (name and name.format(digits))
    assert known.name_of("2") is None


@pytest.mark.parametrize("told", ["blake3:", "blake3:a", "", None])
def test_a_hash_that_is_none_makes_no_name(told: str | None) -> None:
    known = KnownAssets()
    known.put_name(Asset("1", told, file_path="a.png"), Digests("f" * 64, None))
    assert known.name_of("1") is None


def test_a_client_remembers_a_thousand_names() -> None:
    known, digests = KnownAssets(), Digests("f" * 64, None)
    for number in [*range(1000), 0, 1000]:
        known.put_name(Asset(f"{number}", file_path=f"{'f' * 32}.png"), digests)
    assert known.name_of("1") is None
    assert known.name_of("0") == known.name_of("1000") == f"{'f' * 32}.png"


@pytest.mark.parametrize(
    ("name", "unique"),
    [
        ("photo.png", "photo-D.png"),
        ("photo", "photo-D"),
        ("D.png", "D.png"),
        ("x" * 300 + ".png", "x" * 130 + "-D.png"),
        ("\u00e9" * 200, "\u00e9" * 65 + "-D"),
        ("a." + "x" * 40, "a." + "x" * 40 + "-D"),
    ],
)
def test_a_name_with_digits_is_short_enough_for_a_disk(name: str, unique: str) -> None:
    assert unique_name(name, "D") == unique


@pytest.mark.parametrize("place", ["proxy", "serverless"])
@pytest.mark.usefixtures("hashes")
def test_an_output_is_uploaded_as_an_input(place: Any) -> None:
    """The proxy looks for it among the inputs; a hash that a server tells saves the way back."""
    with (
        ComfyServer(hosted=place) as server,
        server.gateway.trap(assets_by_name_only=False),
        opened(server.url, dialect=HOSTED) as http,
    ):
        files, routes = AssetFiles(http), HostedRoutes(http)
        job = routes.submit(PICTURE, key="k-1")
        server.until(lambda: routes.job(job.id).is_ended, LIMIT)
        [made] = routes.job(job.id).outputs
        output = OutputFile(made.name, raw=made.to_comfyui(), files=files)
        workflow = load("x")
        workflow["1"]["image"] = output
        ready = checked(with_files_sent(files, workflow, Deadline.after(LIMIT)))
        second = routes.submit(ready, key="k-2")
        server.until(lambda: routes.job(second.id).is_ended, LIMIT)
        assert routes.job(second.id).status == "succeeded"


@pytest.mark.parametrize("status", [400, 422, 401])
@pytest.mark.parametrize("told", ["a" * 32, "blake3:" + "a" * 32, "blake3:" + "a" * 64])
@pytest.mark.usefixtures("no_hashes")
def test_an_output_is_sent_if_the_server_refuses_its_hash(
    server: ComfyServer, files: AssetFiles, status: int, told: str
) -> None:
    """Only one of the form of Comfy API v2 is asked for; to be refused oneself is an error."""
    made = files.upload_image(CONTENT)
    output = OutputFile("x.png", raw={"id": made.raw["id"], "hash": told}, files=files)
    server.on("POST", "/api/v2/assets/from-hash", (status, {}, None))
    is_asked = len(told) == len("blake3:") + 64
    if is_asked and status == 401:
        with pytest.raises(AuthenticationError):
            files.upload_image(output)
    else:
        assert kept(files, files.upload_image(output)) == CONTENT
    assert asked(server).count(f"POST {FROM_HASH}") == is_asked


# -- workflows -----------------------------------------------------------------------------


def load(image: object) -> Workflow:
    workflow = Workflow(
        {
            "1": node("LoadImage", image="x"),
            "2": node("LoadImage", image="y"),
            "3": node("PreviewImage", images=["1", 0]),
        }
    )
    workflow["1"]["image"] = image
    return workflow


def test_the_files_of_a_workflow_are_references(
    server: ComfyServer, files: AssetFiles, photo: Path
) -> None:
    """The same file once; the workflow itself stays as it was, and goes for any number of jobs."""
    workflow = load(photo)
    workflow["2"]["image"] = Upload(photo)
    ready = with_files_sent(files, workflow, Deadline.after(LIMIT))
    reference = checked(ready)["1"]["inputs"]["image"]
    assert reference["__type"] == "core/ASSET"
    assert checked(ready)["2"]["inputs"]["image"] == reference
    assert checked(ready)["3"]["inputs"]["images"] == ["1", 0]
    assert isinstance(workflow["1"]["image"], Upload)
    again = with_files_sent(files, workflow, Deadline.after(LIMIT))
    assert checked(again) == checked(ready)
    assert sent(server) == 1


def test_a_workflow_without_files_stays_as_it_is(server: ComfyServer, files: AssetFiles) -> None:
    """No request is sent."""
    workflow = load("name.png")
    assert with_files_sent(files, workflow, Deadline.after(LIMIT)) is workflow
    assert not server.requests


def test_an_upload_that_fails_says_for_which_input(server: ComfyServer, files: AssetFiles) -> None:
    """As for any other server."""
    server.on("POST", "/api/v2/assets", (401, {}, None))
    with pytest.raises(AuthenticationError) as caught:
        with_files_sent(files, load(CONTENT), Deadline.after(LIMIT))
    assert "input 'image'" in "".join(caught.value.__notes__)


def test_an_open_file_serves_many_jobs_at_once(server: ComfyServer, files: AssetFiles) -> None:
    """In any number of threads, each of which gets all of it."""
    workflow, found = load(io.BytesIO(CONTENT)), []

    def send() -> None:
        found.append(checked(with_files_sent(files, workflow, Deadline.after(LIMIT))))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(found) == 6
    assert all(one == found[0] for one in found)
    reference = found[0]["1"]["inputs"]["image"]["info"]
    assert files.get_image({"id": reference["id"]}) == CONTENT


# -- changes and faults --------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["hashes", "no_hashes"])
def test_a_file_that_has_changed_is_another_asset(
    server: ComfyServer, files: AssetFiles, photo: Path, request: Any, extra: str
) -> None:
    """Whoever has the old one keeps it."""
    request.getfixturevalue(extra)
    upload = Upload(photo)
    first = files.upload_image(upload)
    photo.write_bytes(CONTENT + b"more")
    second = files.upload_image(upload)
    assert kept(files, first) == CONTENT
    assert kept(files, second) == CONTENT + b"more"


@pytest.mark.parametrize("extra", ["hashes", "no_hashes"])
@pytest.mark.parametrize("changes", [1, 2, 9])
def test_a_file_that_changes_while_it_is_sent_is_sent_again(
    server: ComfyServer, files: AssetFiles, photo: Path, request: Any, extra: str, changes: int
) -> None:
    """Up to three times in all; the last state counts, or nothing does."""
    request.getfixturevalue(extra)
    left = [changes]

    def change(done: int, size: int) -> None:
        if done == size and left[0]:
            left[0] -= 1
            photo.write_bytes(CONTENT + bytes([left[0]]) * (10 + left[0]))

    if changes > 2:
        with pytest.raises(OSError, match="changed while it was sent"):
            files.upload_image(photo, on_progress=change)
        assert sent(server) == 3
        return
    uploaded = files.upload_image(photo, on_progress=change)
    assert kept(files, uploaded) == photo.read_bytes()


@pytest.mark.parametrize("extra", ["hashes", "no_hashes"])
def test_an_open_file_that_changes_before_it_is_sent_is_read_again(
    server: ComfyServer, files: AssetFiles, photo: Path, request: Any, extra: str
) -> None:
    """Between the reading that names it and the one that sends it."""
    request.getfixturevalue(extra)
    with photo.open("rb") as stream:
        first = files.upload_image(stream, "me.png")

        def change(asked: object) -> Any:
            photo.write_bytes(CONTENT[::-1])
            return hosted_error("not_found")

        server.on("GET", f"/api/v2/assets/{first.ref['info']['id']}", change)
        again = files.upload_image(stream, "me.png")
        server.off("GET", f"/api/v2/assets/{first.ref['info']['id']}")
        photo.write_bytes(CONTENT)
        third = files.upload_image(stream, "me.png")
    assert again.ref != first.ref
    assert kept(files, again) == CONTENT[::-1]
    assert kept(files, third) == CONTENT


@pytest.mark.usefixtures("hashes")
def test_a_hash_that_does_not_fit_is_a_changed_file(
    server: ComfyServer, files: AssetFiles, photo: Path
) -> None:
    """The server compares what has arrived; the next attempt goes well."""
    body = {"error": {"code": "hash_mismatch", "message": "no", "details": None}}
    server.on("POST", "/api/v2/assets", (409, {}, body))
    with pytest.raises(OSError, match="changed before it was sent"):
        files.upload_image(photo)
    assert sent(server) == 3
    server.off("POST", "/api/v2/assets")
    assert kept(files, files.upload_image(photo)) == CONTENT


def test_a_conflict_of_another_kind_is_not_sent_again(
    server: ComfyServer, files: AssetFiles
) -> None:
    """It is not sent again."""
    server.on("POST", "/api/v2/assets", (409, {}, {"error": {"code": "taken", "message": "no"}}))
    with pytest.raises(Conflict):
        files.upload_image(CONTENT)
    assert sent(server) == 1


def test_a_file_that_is_too_large_says_so(server: ComfyServer, files: AssetFiles) -> None:
    """With the limit of the server."""
    body = {"error": {"code": "payload_too_large", "message": "Upload exceeds 1000 bytes."}}
    server.on("POST", "/api/v2/assets", (413, {}, body))
    with pytest.raises(UploadTooLarge, match="more than the server accepts") as caught:
        files.upload_image(CONTENT)
    assert caught.value.limit == 1000
    assert caught.value.size is not None


def test_an_upload_has_a_deadline(server: ComfyServer, files: AssetFiles) -> None:
    """For all of its requests together."""
    with pytest.raises(TransportError):
        files.upload_image(CONTENT, timeout=0)
    assert not server.requests


def test_progress_of_a_hosted_upload_is_in_bytes(server: ComfyServer, files: AssetFiles) -> None:
    """In bytes; an exception of the callback ends the upload."""
    told: list[tuple[int, int]] = []
    files.upload_image(CONTENT, on_progress=lambda *done: told.append(done))
    assert told[-1] == (len(CONTENT), len(CONTENT))

    def stop(*_: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        files.upload_image(CONTENT + b"x", on_progress=stop)


@pytest.mark.parametrize("type", ["output", "temp", "models"])
def test_only_inputs_can_be_uploaded(server: ComfyServer, files: AssetFiles, type: Any) -> None:
    """Before any request."""
    with pytest.raises(NotSupported, match="keeps uploads as inputs"):
        files.upload_image(CONTENT, type=type)
    assert not server.requests


def test_a_closed_client_uploads_nothing(server: ComfyServer) -> None:
    """Nor reads the file."""
    with opened(server.url, dialect=HOSTED) as http:
        files = AssetFiles(http)
    with pytest.raises(ClientClosed):
        files.upload_image("no-such-file.png")


def test_repr_and_json_of_a_hosted_upload(server: ComfyServer, files: AssetFiles) -> None:
    """JSON for scripts, without the URL."""
    uploaded = files.upload_image(CONTENT, "a.png")
    assert json.loads(json.dumps(uploaded.to_dict())) == {
        "name": "a.png",
        "subfolder": "",
        "type": "input",
        "ref": uploaded.ref,
    }
