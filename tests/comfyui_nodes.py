"""Nodes for tests, loaded by the real ComfyUI: jobs of any length, failures, odd messages.

Each takes a text and hands it on, so that they can be chained.  They never count as cached,
but for those that say so.
Written for ComfyUI's classic (V1) node API.
"""

import json
import time
from typing import ClassVar

import comfy.model_management
import comfy.utils
from server import PromptServer

try:
    from comfy_execution.graph_utils import ExecutionBlocker
except ImportError:
    try:
        from comfy_execution.graph import ExecutionBlocker  # servers of 2024
    except ImportError:
        ExecutionBlocker = None  # those before August


class TestNode:
    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ("STRING",)
    EXTRA: ClassVar = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": cls.EXTRA,
            "optional": {"text": ("STRING", {"default": ""})},
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, **inputs):
        return time.time_ns()


class TestSleep(TestNode):
    """Sleeps, with progress ticks; an interrupt ends it within 20 ms."""

    EXTRA: ClassVar = {
        "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0}),
        "ticks": ("INT", {"default": 10, "min": 1, "max": 1000000}),
    }

    def run(self, seconds, ticks, text="", node_id=None):
        bar = comfy.utils.ProgressBar(ticks)
        start = time.monotonic()
        for tick in range(1, ticks + 1):
            while (left := start + seconds * tick / ticks - time.monotonic()) > 0:
                comfy.model_management.throw_exception_if_processing_interrupted()
                time.sleep(min(left, 0.02))
            bar.update_absolute(tick, ticks)
        return (text,)


class TestSleepOutput(TestSleep):
    """TestSleep as an output node: ``{"text": [text]}`` in history."""

    OUTPUT_NODE = True

    def run(self, seconds, ticks, text="", node_id=None):
        return {"ui": {"text": [text]}, "result": super().run(seconds, ticks, text)}


class TestFail(TestNode):
    """Raises ValueError(message)."""

    OUTPUT_NODE = True
    EXTRA: ClassVar = {"message": ("STRING", {"default": "failed as told"})}

    def run(self, message, text="", node_id=None):
        raise ValueError(message)


class TestOutOfMemory(TestNode):
    """Runs out of memory so many times for each key, and then succeeds."""

    OUTPUT_NODE = True
    EXTRA: ClassVar = {
        "key": ("STRING", {"default": ""}),
        "times": ("INT", {"default": 1, "min": 0, "max": 9}),
    }
    seen: ClassVar = {}

    def run(self, key, times, text="", node_id=None):
        tries = self.seen[key] = self.seen.get(key, 0) + 1
        if tries <= times:
            raise comfy.model_management.OOM_EXCEPTION(f"Allocation on device, try {tries}")
        return {"ui": {"text": [f"try {tries}"]}, "result": (text,)}


class TestText(TestNode):
    """Sends the text as the progress text of this node (binary message 3)."""

    OUTPUT_NODE = True

    def run(self, text="", node_id=None):
        server = PromptServer.instance
        server.send_progress_text(text, node_id, server.client_id)
        return {"ui": {"text": [text]}, "result": (text,)}


class TestBlock(TestNode):
    """Blocks the nodes behind it; with a message, the client is told (ExecutionBlocked)."""

    EXTRA: ClassVar = {"message": ("STRING", {"default": ""})}

    def run(self, message, text="", node_id=None):
        if ExecutionBlocker is None:
            raise ImportError("No module named 'comfy_execution'")
        return (ExecutionBlocker(message or None),)


class TestCustomEvent(TestNode):
    """Broadcasts an event of any name; data is JSON text."""

    OUTPUT_NODE = True
    EXTRA: ClassVar = {
        "event": ("STRING", {"default": "test.event"}),
        "data": ("STRING", {"default": "{}"}),
    }

    def run(self, event, data, text="", node_id=None):
        PromptServer.instance.send_sync(event, json.loads(data))
        return {"ui": {"text": [text]}, "result": (text,)}


class TestSwitch:
    """Hands one of two texts on; only that one is worked out.  Can be cached."""

    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ("STRING",)

    @classmethod
    def INPUT_TYPES(cls):
        lazy = {"lazy": True, "forceInput": True}
        return {
            "required": {"choose": ("STRING", {"default": "a"})},
            "optional": {"a": ("STRING", lazy), "b": ("STRING", lazy)},
        }

    def check_lazy_status(self, choose, a=None, b=None):
        given = {"a": a, "b": b}
        return [name for name in choose.split() if given.get(name) is None][:1]

    def run(self, choose, a=None, b=None):
        given = {"a": a, "b": b}
        return (" ".join(str(given[name]) for name in choose.split()),)


class TestExpand:
    """Expands into nodes that hand the text on and show it, so many deep.  Can be cached."""

    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ("STRING", "STRING")
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "depth": ("INT", {"default": 0, "min": 0, "max": 9}),
                "what": ("STRING", {"default": "text"}),
            },
            "optional": {"text": ("STRING", {"default": ""})},
            "hidden": {"node_id": "UNIQUE_ID", "graph": "DYNPROMPT"},
        }

    def run(self, depth, what, text="", node_id=None, graph=None):
        inner, shown = f"{node_id}.inner", f"{node_id}.shown"
        inputs = {"text": text}
        if depth:
            node = {
                "class_type": "TestExpand",
                "inputs": {**inputs, "depth": depth - 1, "what": what},
            }
        else:
            extra = {"message": {"message": "inside"}, "sleep": {"seconds": 0.0, "ticks": 1}}
            class_type = {"fail": "TestFail", "block": "TestBlock", "unknown": "TestNowhere"}
            node = {
                "class_type": class_type.get(what, "TestSleep"),
                "inputs": {**inputs, **extra["message" if what in class_type else "sleep"]},
            }
        expand = {inner: node}
        if what == "show":
            expand[shown] = {"class_type": "PreviewAny", "inputs": {"source": text}}
        if what == "override":
            node["override_display_id"] = "9"
        if what == "nowhere":
            node["inputs"]["text"] = ["nowhere", 0]
        if what == "circle":
            node["inputs"]["text"] = [inner, 0]
        parents = f"{graph.get_parent_node_id(node_id)} {graph.get_real_node_id(node_id)}"
        return {"ui": {"parents": [parents]}, "expand": expand, "result": ([inner, 0], parents)}


class TestBareBatch:
    """Returns its batch in place of a tuple, a mistake; and says all that a class can say."""

    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The batch.",)
    DEPRECATED = True
    EXPERIMENTAL = True
    API_NODE = False

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return image


class TestKey:
    """A node that returns the length of the API key for partner nodes, or an error with the key."""

    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"key": ("STRING",), "fails": ("BOOLEAN",)},
            "hidden": {"secret": "API_KEY_COMFY_ORG"},
        }

    def run(self, key, fails, secret=None):
        if fails:
            raise RuntimeError(f"the key {secret} is not valid")
        return {"ui": {"text": [f"{len(secret or '')} characters"]}}


NODE_CLASS_MAPPINGS = {
    cls.__name__: cls
    for cls in (
        TestSleep,
        TestSleepOutput,
        TestFail,
        TestOutOfMemory,
        TestText,
        TestBlock,
        TestCustomEvent,
        TestKey,
        TestSwitch,
        TestExpand,
        TestBareBatch,
    )
}
