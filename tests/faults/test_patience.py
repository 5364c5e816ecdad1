"""How long is waited for a server that says nothing, and what is said of a second try."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import ServerUnreachable, SubmitUncertain, TransportError
from comfy_client.jobs import submit as submission
from comfy_client.testing import ComfyServer
from tests.helpers.clients import Heard, until
from tests.helpers.proxy import Proxy

PICTURE = {
    "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny.ckpt"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a", "clip": ["4", 1]}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1,
            "steps": 40,
            "cfg": 7.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["6", 0],
            "latent_image": ["1", 0],
        },
    },
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
}


def _has_ended(server: ComfyServer, prompt_id: str) -> bool:
    return any(ran.prompt_id == prompt_id and ran.status for ran in list(server.ran))


@pytest.mark.timing(silence=0.3, question=0.5)
def test_kept_connections_that_are_dead_hold_up_no_verdict() -> None:
    """F2: the socket is dead, and so is each HTTP connection that was kept; new ones work."""
    with ComfyServer() as server, Proxy(server.port) as link:
        (server.root / "models" / "checkpoints" / "tiny.ckpt").write_bytes(b"")
        with ComfyApi(link.url, namespace=blinker.Namespace()) as api:
            heard = Heard(api)
            with ThreadPoolExecutor(6) as pool:  # as many connections
                list(pool.map(lambda _: api.get_queue(), range(24)))
            job = api.submit(PICTURE)
            until(lambda: job.progress.step)
            link.dark(old_only=True)
            until(lambda: _has_ended(server, job.prompt_id))
            over = time.monotonic()
            assert len(job.result(30.0).images) == 1
            assert time.monotonic() - over < 6.0
            assert heard.links == []


@pytest.mark.timing(look_up=0.3)
def test_a_second_try_that_reaches_nobody_leaves_the_first_uncertain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With ``resubmit``, "nothing was sent" would be said of the second only."""
    answers: list[Exception] = [TransportError("cut"), *[ServerUnreachable("gone")] * 2]

    def post(*_: Any, **__: Any) -> Any:
        raise answers.pop(0)

    with ComfyServer() as server, ComfyApi(server.url, namespace=blinker.Namespace()) as api:
        monkeypatch.setattr(submission, "post_prompt", post)
        with pytest.raises(SubmitUncertain, match="gone"):
            api.submit(PICTURE, resubmit=True)
        assert answers == []
