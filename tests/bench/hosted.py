"""How Comfy API v2 does in figures, by the real comfy-api-proxy in front of a real ComfyUI.

    python -m tests.bench.hosted [--jobs 1000] [--lost 200]

Trivial jobs through the proxy beside the same straight to ComfyUI, in turns; submissions whose
answer is lost; and whom the token is sent to.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import Counter
from contextlib import ExitStack

from comfy_client import ComfyApi, HostedApi, SubmitUncertain
from comfy_client.errors import ComfyError
from tests.comfyui import ComfyUI
from tests.helpers.hosted import Hosted, before, picture
from tests.helpers.hosted_faults import JOBS
from tests.helpers.middle import Middle, answer, first_of_each, lost

from .rows import graphs

BLOCK = 10
TOKEN = "a-token-for-one-origin-only"


def trivial(proxied: ComfyApi, straight: ComfyApi, jobs: int) -> str:
    """Run so many jobs each way, in blocks that take turns."""
    seconds: dict[str, list[float]] = {"proxy": [], "straight": []}
    failures: Counter[str] = Counter()
    sides = [("proxy", proxied), ("straight", straight)]
    for _ in range(-(-jobs // BLOCK)):
        random.shuffle(sides)
        for side, api in sides:
            for graph in graphs(BLOCK):
                start = time.perf_counter()
                try:
                    api.run(graph, timeout=60).images[0].bytes()
                except ComfyError as error:
                    failures[f"{side}: {type(error).__name__}: {error}"[:200]] += 1
                else:
                    seconds[side].append(time.perf_counter() - start)
    proxy, direct = (statistics.median(seconds[side]) for side in ("proxy", "straight"))
    return (
        f"{jobs} trivial jobs each way, one at a time, to the bytes of the picture: "
        f"{sum(failures.values())} failed {dict(failures) or ''}; median {proxy * 1000:.1f} ms by "
        f"the proxy, {direct * 1000:.1f} ms straight: {proxy / direct:.2f} times (aim: 1.5)"
    )


def lost_answers(api: ComfyApi, middle: Middle, place: Hosted, count: int) -> str:
    """Lose the answer to each submission, and count how often each job ran."""
    stem = f"lost{random.getrandbits(32):08x}"
    ends: Counter[str] = Counter()
    took = []
    with middle.rule("POST", JOBS, first_of_each(lost)) as rule:
        for number in range(count):
            start = time.perf_counter()
            try:
                api.run(picture(f"{stem}n{number}n"), timeout=60).images[0].bytes()
                ends["right"] += 1
            except SubmitUncertain:
                ends["uncertain"] += 1
            except ComfyError as error:
                ends[f"{type(error).__name__}: {error}"[:200]] += 1
            took.append(time.perf_counter() - start)
    runs = Counter(place.runs(f"{stem}n{number}n") for number in range(count))
    doubled = sum(many for times, many in runs.items() if times > 1)
    return (
        f"{count} lost answers ({len(rule.met)} submissions): {dict(ends)}; "
        f"ran once: {runs[1]}, never: {runs[0]}, twice or more: {doubled}; median "
        f"{statistics.median(took):.2f} s, longest {max(took):.2f} s"
    )


def token(comfyui: ComfyUI, stack: ExitStack) -> str:
    """Have downloads redirected to another port, and look at what arrives there."""
    place = stack.enter_context(before(comfyui, token=TOKEN))
    middle = stack.enter_context(Middle(int(place.url.rpartition(":")[2])))
    storage = stack.enter_context(Middle(comfyui.port))
    api = stack.enter_context(HostedApi(middle.url, TOKEN))
    moved = answer(302, "", {"Location": f"{storage.url}/view?filename=testbed.png&type=input"})
    with middle.rule("GET", "/api/v2/assets/*/content", moved):
        for graph in graphs(5):
            api.run(graph, timeout=60).images[0].bytes()
    told = [one for one in storage.asked if TOKEN in str(one.headers) or TOKEN in one.path]
    names = sorted({key for one in storage.asked for key in one.headers})
    asked = [one for one in middle.asked if TOKEN in str(one.headers)]
    return (
        f"the token went with {len(asked)} of {len(middle.asked)} requests to its own origin, and "
        f"with {len(told)} of {len(storage.asked)} to the storage, whose headers were {names}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.hosted", description="Comfy API v2 in figures."
    )
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--lost", type=int, default=200)
    args = parser.parse_args()
    with ExitStack() as stack:
        comfyui = stack.enter_context(ComfyUI())
        place = stack.enter_context(before(comfyui))
        middle = stack.enter_context(Middle(int(place.url.rpartition(":")[2])))
        proxied = stack.enter_context(HostedApi(place.url))
        straight = stack.enter_context(ComfyApi(comfyui.url))
        hindered = stack.enter_context(HostedApi(middle.url))
        for api in (proxied, straight, hindered):  # imports, first connections, the first job
            for graph in graphs(3):
                api.run(graph, timeout=60).images[0].bytes()
        if args.jobs:
            print(trivial(proxied, straight, args.jobs), flush=True)
        if args.lost:
            print(lost_answers(hindered, middle, place, args.lost), flush=True)
        print(token(comfyui, stack), flush=True)


if __name__ == "__main__":
    main()
