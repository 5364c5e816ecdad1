"""What the contract tests found on each version of ComfyUI, as the table of the guide.

    python -m pytest --real --junitxml=REPORT
    python -m tests.compatibility REPORT

    python -m pytest --real --comfyui=PATH --junitxml=REPORT
    python -m tests.compatibility REPORT --given 0.33.0 --write

It prints the table with the results of reports in place of earlier ones of the same versions.
With ``--write``, they also replace those in ``compatibility.json`` and in the guide.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.helpers.running_comfyui import GIVEN
from tests.versions import BY_HAND, TESTED

DATA = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "comfy_client" / "guide" / "compatibility.rst"
VERSIONS = (*TESTED, *BY_HAND)

#: By version: on which day, and of each module how many tests "passed", "failed", were "skipped".
Results = Mapping[str, Mapping[str, Any]]

#: What the modules of tests/contract are about.
TOPICS = {
    "every method, every end of a prompt": ("versions",),
    "routes with all their options": ("routes",),
    "prompts, jobs and results": ("runs", "job", "outputs", "missing_files", "out_of_memory"),
    "events, callbacks, the socket": ("event_order", "callbacks", "close_codes"),
    "``map`` and ``sweep``": ("sweep_real",),
    "workflows: build, edit, check": (
        "build",
        "workflow_edits_real",
        "check_agrees",
        "validate_agrees",
    ),
    "workflow files and templates": ("ui_format", "saved_workflows", "templates"),
    "pictures there and back": ("picture_round_trips",),
    "the command": ("command_line", "command_extra_data", "command_signals", "workflow_commands"),
    "a notebook": ("notebook",),
    "the embedded server says the same": ("differential",),
    "proxies, TLS, users, readiness": ("doors", "readiness"),
}


def version_of(name: str, given: str | None = None) -> str | None:
    """Return the version of the real server that a test ran on; None of an embedded one.

    Args:
        name: The name of the test with its parameters, as reports have it.
        given: The version of the server of ``--comfyui``.
    """
    parameters = f"-{name.partition('[')[2].removesuffix(']')}-"
    for version in TESTED:
        if f"-{version}-" in parameters and f"-embedded-{version}-" not in parameters:
            return version
    return given if f"-{GIVEN}-" in parameters else None


def read(*reports: str, given: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the results of the contract tests on real servers, from JUnit reports."""
    found: dict[str, dict[str, Any]] = {}
    for suite in (suite for report in reports for suite in ElementTree.fromstring(report)):
        for case in suite.iter("testcase"):
            module = re.search(r"tests\.contract\.test_(\w+)", case.get("classname", ""))
            version = version_of(case.attrib["name"], given)
            if module is None or version is None:
                continue
            kinds = {child.tag for child in case}
            outcome = "failed" if kinds & {"failure", "error"} else "passed"
            outcome = "skipped" if "skipped" in kinds else outcome
            of_version = found.setdefault(version, {"tests": {}})
            of_version["on"] = suite.attrib["timestamp"][:10]
            of_version["tests"].setdefault(module[1], Counter())[outcome] += 1
    return found


def cell(counts: Mapping[str, int]) -> str:
    """Return how the tests of a topic went, in a few words."""
    words = [str(counts.get("passed", 0))] if counts else ["none"]
    words += [f"{counts[kind]} {kind}" for kind in ("failed", "skipped") if counts.get(kind)]
    return ", ".join(words)


def total(results: Results, version: str, modules: Iterable[str]) -> Counter[str]:
    """Return the counts of some modules together."""
    tests = results.get(version, {}).get("tests", {})
    return sum((Counter(tests.get(name, {})) for name in modules), Counter())


def rst(results: Results) -> str:
    """Return the table as the guide shows it."""
    lines = [["tests of", *VERSIONS]]
    everything = tuple(chain.from_iterable(TOPICS.values()))
    for topic, modules in {**TOPICS, "all of these": everything}.items():
        lines.append([topic, *(cell(total(results, version, modules)) for version in VERSIONS)])
    lines.append(["last run", *(results.get(version, {}).get("on", "-") for version in VERSIONS)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([rule, rows[0], rule, *rows[1:], rule]) + "\n"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility")
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--given", choices=BY_HAND, help="the version that --comfyui named")
    parser.add_argument("--write", action="store_true", help="keep these results")
    options = parser.parse_args()
    before = json.loads(DATA.read_text("utf-8"))
    reports = [report.read_text("utf-8") for report in options.reports]
    results = before | read(*reports, given=options.given)
    print(rst(results), end="")
    if options.write:
        page = PAGE.read_text("utf-8")
        PAGE.write_text(page.replace(rst(before), rst(results)), "utf-8")
        DATA.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
