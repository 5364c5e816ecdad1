"""The recipes for Prometheus and OpenTelemetry: what they report about prompts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from comfy_client import ClientStats, ComfyApi, JobFailed
from comfy_client.testing import ComfyServer
from tests.guide import blocks
from tests.helpers.clients import LIMIT, until
from tests.helpers.openmetrics import read
from tests.helpers.recipes import painting

Names = dict[str, Any]
Recipe = Callable[[str], Names]


@pytest.fixture
def recipe() -> Iterator[Recipe]:
    """Return a function: the names that a section's program defines before its handlers."""
    logger = logging.getLogger("comfy_client")
    level, handlers = logger.level, [*logger.handlers]

    def define(section: str) -> Names:
        [code] = [
            block.code
            for block in blocks()
            if (block.page, block.section) == ("monitoring", section)
        ]
        names: Names = {}
        exec(code.partition("with ComfyApi")[0], names)
        return names

    yield define
    logger.setLevel(level)
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)


def test_the_page_for_prometheus_is_openmetrics(comfy: ComfyServer, recipe: Recipe) -> None:
    """It has each counter, the queue and both histograms, by host."""
    names = recipe("Prometheus")
    with ComfyServer() as idle, ComfyApi(comfy.url) as busy, ComfyApi(idle.url) as other:
        for _ in range(3):
            busy.run(painting(), progress=False)
        until(lambda: busy.poll_status(LIMIT).queue_remaining == 0)  # a moment after the last end
        families = read(names["metrics"]([busy, other]))
        mine, its = frozenset({("host", busy.host)}), frozenset({("host", other.host)})
    for field in attrs.fields(ClientStats):
        family = families[f"comfy_client_{field.name}"]
        assert family.text
        assert {labels for _, labels in family.samples} == {mine, its}
    assert families["comfy_client_succeeded"].samples["_total", mine] == 3
    assert families["comfy_client_outstanding"].kind == "gauge"
    assert families["comfy_queue_length"].samples == {("", mine): 0, ("", its): 0}
    ran = families["comfy_prompt_running_seconds"].samples
    assert ran["_count", mine] == ran["_bucket", mine | {("le", "+Inf")}] == 3
    assert ran["_sum", mine] > 0
    assert ("_count", its) not in ran
    assert families["comfy_prompt_waiting_seconds"].kind == "histogram"


def test_each_bucket_includes_its_limit(recipe: Recipe) -> None:
    """A prompt that takes exactly the limit is in the bucket."""
    names = recipe("Prometheus")
    waited = names["waited"]
    for seconds in (0.5, 0.51, 700.0, None):
        facts = {"prompt_event": "started", "waited": seconds, "server": "http://gpu:8188"}
        waited.handle(logging.makeLogRecord(facts))
    waited.handle(logging.makeLogRecord({"prompt_event": "ended", "server": "http://gpu:8188"}))
    lines = [*names["head"]("x", "histogram", "X."), *waited.samples("x"), "# EOF\n"]
    samples = read("\n".join(lines))["x"].samples
    host = frozenset({("host", "http://gpu:8188")})
    counts = {limit: samples["_bucket", host | {("le", limit)}] for limit in ("0.5", "1.0", "+Inf")}
    assert counts == {"0.5": 1, "1.0": 2, "+Inf": 3}
    assert samples["_sum", host] == 701.01


def test_a_server_that_is_gone_has_no_queue_length(recipe: Recipe) -> None:
    names = recipe("Prometheus")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen, so that nobody else does
        api = ComfyApi(f"http://127.0.0.1:{closed.getsockname()[1]}")
        families = read(names["metrics"]([api]))
        api.close()
    assert families["comfy_queue_length"].samples == {}
    assert families["comfy_client_submitted"].samples


@pytest.mark.parametrize(
    "text",
    [
        "x 1\n",
        "# TYPE x counter\nx 1\n# EOF\n",
        "# TYPE x_total counter\nx_total 1\n# EOF\n",
        "# TYPE x gauge\n# TYPE x gauge\n# EOF\n",
        "# TYPE x gauge\nx 1\nx 1\n# EOF\n",
        "# TYPE x gauge\ny 1\n# EOF\n",
        '# TYPE x gauge\nx{host="a"b"} 1\n# EOF\n',
        '# TYPE x histogram\nx_bucket{le="1.0"} 2\nx_bucket{le="+Inf"} 1\nx_count 1\n# EOF\n',
        '# TYPE x histogram\nx_bucket{le="+Inf"} 1\nx_count 2\n# EOF\n',
    ],
)
def test_the_reader_of_these_tests_is_as_strict_as_prometheus(text: str) -> None:
    """The reader in ``helpers.openmetrics`` refuses the same pages."""
    with pytest.raises(ValueError, match=r"name|mark|sample|twice|buckets|clashing"):
        read(text)


class Span(trace.NonRecordingSpan):
    """A span that records its calls."""

    status: tuple[Any, ...] = ()
    ended: int = 0

    def set_status(self, *status: Any) -> None:
        self.status = status

    def end(self, end_time: int | None = None) -> None:
        self.ended = end_time or 0


class Tracer(trace.NoOpTracer):
    """A stand-in for the tracer of an SDK, which keeps the spans and their first attributes."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, dict[str, Any], Span]] = []

    def start_span(self, name: str, **facts: Any) -> Span:  # type: ignore[override]
        span = Span(trace.INVALID_SPAN_CONTEXT)
        self.begun.append((name, facts, span))
        return span


def test_a_span_is_a_child_of_its_callers_span(
    comfy: ComfyServer, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the id of the prompt, and an error if it failed, whichever thread ends it."""
    tracer = Tracer()
    monkeypatch.setattr(trace, "get_tracer", lambda name: tracer)
    names = recipe("OpenTelemetry")
    caller = trace.SpanContext(7, 8, is_remote=False)
    with ComfyApi(comfy.url) as api, trace.use_span(trace.NonRecordingSpan(caller)):
        context: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(context)
        result = api.run(painting(), progress=False, tags=context)
        with pytest.raises(JobFailed):
            api.run(painting(), {"Positive prompt.text": "fail"}, progress=False, tags=context)
        until(lambda: len(tracer.begun) == 2)
    assert names["PROPAGATOR"].fields == {"traceparent", "tracestate"}
    (name, facts, span), (_, others, failed) = tracer.begun
    assert name == "comfy.prompt"
    assert facts["attributes"]["comfy.prompt_id"] == result.prompt_id
    assert facts["attributes"]["server.address"] == api.host
    for each in (facts, others):
        parent = trace.get_current_span(each["context"]).get_span_context()
        assert (parent.trace_id, parent.span_id) == (7, 8)
    assert 0 < facts["start_time"] <= span.ended
    assert span.status == ()
    assert failed.status == (trace.StatusCode.ERROR, "job_failed")
