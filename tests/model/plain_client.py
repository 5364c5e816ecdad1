"""A client of Comfy API v2 with the promises alone, and one for each way to break them.

It shows that the promises can be kept on the model of ``hosted``, and that ``test_hosted`` notices
each of its ``FLAWS``.
"""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import uuid4

import attrs
import requests
from urllib3.exceptions import HTTPError

from comfy_client import runtime
from comfy_client.errors import (
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    NotSupported,
    PromptRejected,
    SubmitUncertain,
    TransportError,
)
from comfy_client.transport import identity

#: Seconds, and looks, until something that may be false is believed.
BELIEVED, LOOKS = 2.0, 3
_GRACE: Final = 5.0


@attrs.frozen
class Picture:
    """A file of a job."""

    filename: str


@attrs.frozen
class Done:
    """A job that succeeded, with its files."""

    images: tuple[Picture, ...]


class PlainApi:
    """A client; ``flaw`` is one of ``test_hosted.FLAWS``, or empty."""

    def __init__(self, host: str, *, patience: float, flaw: str = "") -> None:
        self.host = host
        self.patience = patience
        self.flaw = flaw
        self.known: list[str] = []  # ids of jobs that it submitted
        self._dialect = "string"
        self._session = identity.new_session()

    def ask(
        self, method: str, path: str, said: Any = None, key: str | None = None
    ) -> tuple[int, Any]:
        """Return status and decoded body; status 0 if no answer came, or none that can be read."""
        headers = {"Idempotency-Key": key} if key else {}
        url = f"http://{self.host}/api/v2{path}"
        request = requests.Request(method, url, json=said, headers=headers).prepare()
        try:
            response = self._session.send(request, timeout=(5.0, 10.0))
            return response.status_code, json.loads(response.raw.read())
        except (requests.RequestException, HTTPError, OSError, ValueError):
            return 0, None

    def listen(self, job_id: str) -> bool:
        """Read the events of a job to their end; return whether its success was told."""
        url = f"http://{self.host}/api/v2/jobs/{job_id}/events"
        request = requests.Request("GET", url).prepare()
        text = b""
        try:
            response = self._session.send(request, timeout=(5.0, 25.0))
            while response.status_code == 200 and (piece := response.raw.read1(65536)):
                text += piece
        except (requests.RequestException, HTTPError, OSError):
            pass
        return b'"status":"succeeded"' in text or self.flaw == "the end of a stream is success"

    # -- submission ------------------------------------------------------------------------

    def submit(self, graph: dict[str, Any]) -> PlainJob:
        """Submit exactly once."""
        key, until = str(uuid4()), runtime.monotonic() + self.patience
        is_sent, looks, is_used, older = False, 0, False, {*self.known}
        while True:
            if not is_sent or (not is_used and self._may_send_again(older)):
                is_sent = True
                status, said = self._post(graph, key)
                code = _code(said)
                if status == 201:
                    return self._accepted(said["id"])
                is_used = code == "idempotency_key_reuse"
                if code and not is_used and 400 <= status < 500 and status not in (408, 429):
                    raise PromptRejected(code, method="POST", path="/jobs", status=status)
                if self.flaw == "a new key for each try":
                    key = str(uuid4())
            found = None if self.flaw == "no search by label" else self._find(key)
            if found:
                return self._accepted(found)
            looks += found is not None and is_used
            if looks >= LOOKS or runtime.monotonic() >= until:
                raise SubmitUncertain(f"key {key}", prompt_id=key)
            runtime.sleep(1.0)

    def _accepted(self, job_id: str) -> PlainJob:
        self.known.append(job_id)
        return PlainJob(self, job_id)

    def _post(self, graph: dict[str, Any], key: str) -> tuple[int, Any]:
        """Send it, in the dialect of the surface."""
        nodes = {node: {**what, "_meta": {"comfy_client": key}} for node, what in graph.items()}
        while True:
            labels = {"string": key, "map": {"comfy_client": key}, "none": None}
            body = {"workflow": nodes, "metadata": labels[self._dialect]}
            status, said = self.ask("POST", "/jobs", body, key)
            code = _code(said)
            if code not in ("metadata_invalid", "metadata_not_supported"):
                return status, said
            self._dialect = "map" if code == "metadata_invalid" else "none"

    def _may_send_again(self, older: set[str]) -> bool:
        """Whether the server surely still knows the key, if it ever did."""
        if self._dialect != "string" or self.flaw == "a key is used again after a restart":
            return True
        status, said = self.ask("GET", "/jobs?limit=100")
        return status == 200 and any(job["id"] in older for job in said["jobs"])

    def _find(self, key: str) -> str | None:
        """Return the id of the job with that key, empty if there is none; ``None``: unknown."""
        status, said = self.ask("GET", "/jobs?limit=100")
        if status != 200:
            return "" if status == 501 else None
        for job in said["jobs"]:
            if job.get("metadata") in (key, {"comfy_client": key}):
                return str(job["id"])
            if self._dialect == "map" and job["id"] not in self.known:  # an old gateway
                _, graph = self.ask("GET", f"/jobs/{job['id']}/workflow")
                if key in json.dumps(graph):
                    return str(job["id"])
        return ""

    def job(self, job_id: str) -> PlainJob:
        """Return another job of the same id."""
        return PlainJob(self, job_id, listens=False)

    def close(self) -> None:
        """Nothing is open."""


def _code(said: Any) -> str:
    """Return the code of a refusal, empty of anything else."""
    error = said.get("error") if isinstance(said, dict) else None
    return error.get("code", "") if isinstance(error, dict) and "id" not in said else ""


class PlainJob:
    """One job."""

    def __init__(self, api: PlainApi, prompt_id: str, *, listens: bool = True) -> None:
        self.prompt_id = prompt_id
        self._api = api
        self._began = runtime.monotonic()
        self._is_cancelled = False
        self._woken = runtime.Event()
        self._is_told = False
        if listens:
            runtime.Thread(target=self._listen, name="comfy-stream").start()

    def _listen(self) -> None:
        self._is_told = self._api.listen(self.prompt_id)
        self._woken.set()

    def result(self, timeout: float | None = None) -> Done:
        """Wait for the end."""
        api, flaw = self._api, self._api.flaw
        began = heard = runtime.monotonic()
        pause, doubts, doubted = 0.02, 0, 0.0
        while True:
            now = runtime.monotonic()
            if timeout is not None and now - began >= timeout:
                raise JobTimeout("time is out", prompt_id=self.prompt_id)
            status, said = api.ask("GET", f"/jobs/{self.prompt_id}")
            now = runtime.monotonic()
            state = said["status"] if status == 200 and isinstance(said, dict) else ""
            if state or status == 404:
                heard = now
            if state in ("succeeded", "failed", "canceled"):
                return self._end(state, said)
            if state == "expired" or (status == 404 and now - self._began >= _GRACE):
                doubts, doubted = doubts + 1, doubted or now
                kind = "the first expired counts" if state else "the first 404 counts"
                if (doubts >= LOOKS and now - doubted >= BELIEVED) or flaw == kind:
                    return self._end("expired", said)
            elif state:
                doubts, doubted = 0, 0.0
            elif now - heard >= api.patience or flaw == "the first bad answer counts":
                raise JobLost("out of reach", prompt_id=self.prompt_id, retryable=False)
            self._woken.wait(pause)
            pause = min(1.0, pause * 1.5)
            if self._is_told and flaw == "the end of a stream is success":
                return Done(())
            if self._woken.is_set():
                runtime.sleep(pause)

    def _end(self, state: str, said: Any) -> Done:
        if state == "succeeded":
            return Done(tuple(Picture(output["name"]) for output in said["outputs"]))
        if state == "failed":
            raise JobFailed("failed", prompt_id=self.prompt_id)
        if state == "canceled" or self._is_cancelled:
            raise JobInterrupted("canceled", prompt_id=self.prompt_id)
        raise JobLost("expired", prompt_id=self.prompt_id)

    def cancel(self) -> bool:
        """Stop it; return False if it had ended, raise ``NotSupported`` if it goes on."""
        status, _ = self._api.ask("POST", f"/jobs/{self.prompt_id}/cancel")
        if self._api.flaw == "a cancellation is believed":
            return status == 200
        self._is_cancelled = True
        try:
            self.result(15.0)
        except JobInterrupted:
            return True
        except JobTimeout:
            self._is_cancelled = False
            asked, said = self._api.ask("GET", f"/jobs/{self.prompt_id}")
            if status == asked == 200 and said["status"] in ("queued", "running"):
                raise NotSupported("it goes on") from None
            raise TransportError("nobody says what became of it") from None
        except JobLost as exc:
            if not exc.retryable:
                raise TransportError("nobody says what became of it") from None
        except JobFailed:
            pass
        return False
