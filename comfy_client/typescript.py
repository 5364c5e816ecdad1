"""Names from the TypeScript clients, each with its equivalent in Python.

The module is imported only for a name that does not exist: ``comfy_client.CallWrapper``,
``api.queuePrompt`` and ``pool.addClient`` raise ``AttributeError`` with a hint from here, as do
misspelt attributes of clients, pools and jobs.
"""

from __future__ import annotations

import inspect
import opcode
import re
import types
from collections.abc import Mapping
from typing import Final

from .nearest import nearest

_WORKFLOW: Final = 'Workflow.load("file.json"), then workflow["KSampler"]["seed"] = 7'

#: Names of the package.
PACKAGE: Final[Mapping[str, str]] = {
    "AsyncComfyApi": "comfy_client.aio waits for jobs and events of a ComfyApi in asyncio",
    "BypassNode": 'workflow.bypass("LoraLoader")',
    "CallWrapper": (
        "api.run(workflow) returns the result or raises; on_start, on_output, on_progress, "
        "on_preview and on_queue are arguments of it, and api.submit(workflow) returns a Job"
    ),
    "CallWrapperError": "api.run and job.result raise a JobError, such as JobFailed or JobLost",
    "Client": "ComfyApi(host)",
    "ComfyClient": "ComfyApi(host)",
    "ComfyUIApiClient": "ComfyApi(host)",
    "CustomEventError": "JobFailed",
    "DisconnectedError": "the client reconnects by itself, and the job goes on",
    "EnqueueFailedError": "PromptRejected",
    "EQueueMode": 'ComfyPool(servers, mode="shortest"), or "round_robin" or "first_free"',
    "ExecutionFailedError": "JobFailed",
    "ExecutionInterruptedError": "JobInterrupted",
    "FailedCacheError": "result.fully_cached says that nothing had to run",
    "MissingNodeError": "PromptRejected, or workflow.check(api) before",
    "OSType": "api.get_system_stats().os",
    "PromptBuilder": (
        f"{_WORKFLOW}; or Template(workflow, inputs, outputs) to give inputs and outputs names"
    ),
    "TSamplerName": "api.get_sampler_info().samplers",
    "TSchedulerName": "api.get_sampler_info().schedulers",
    "WentMissingError": "JobLost",
    "WorkflowBuilder": "Graph builds a workflow from code",
    "delay": "time.sleep(seconds)",
    "encodeNTPath": "paths are sent as the server wants them",
    "encodePosixPath": "paths are sent as the server wants them",
    "generateWorkflowCode": "comfy-client stubs writes types for your node classes",
    "randomInt": 'api.run(workflow, {"KSampler.seed": "random"})',
    "seed": 'api.run(workflow, {"KSampler.seed": "random"})',
}

_LISTENERS: Final = (
    'api.on(name, function) returns a function that removes it; or signal("b_preview")'
)

#: Names of a client; any other camelCase name becomes snake_case, if that exists.
CLIENT: Final[Mapping[str, str]] = {
    "addCustomEventListener": _LISTENERS,
    "addEventListener": _LISTENERS,
    "api_base": "api.host",
    "apiBase": "api.host",
    "apiHost": "api.host",
    "apiURL": "api.fetch_api(method, route) takes the route alone",
    "availableFeatures": "api.get_features()",
    "call": "api.run(workflow)",
    "clearItems": "api.clear_queue() or api.clear_history()",
    "connect": "api.init(), or with ComfyApi(host) as api",
    "createSocket": "api.init(), or with ComfyApi(host) as api",
    "deleteItem": "api.delete_from_queue(prompt_id) or api.delete_history(prompt_id)",
    "destroy": "api.close(), or with ComfyApi(host) as api",
    "disconnect": "api.close(), or with ComfyApi(host) as api",
    "dispatchEvent": "events come from the server; signal(name) is blinker's",
    "enqueue": "api.run(workflow), or api.submit(workflow), which does not wait",
    "enqueue_polling": 'ComfyApi(host, transport="poll"), then api.run(workflow)',
    "generate": "api.run(workflow)",
    "get_samplers": "api.get_sampler_info()",
    "queue": "api.submit(workflow) queues a prompt, and api.get_queue() shows the queue",
    "fileURL": "api.get_path_image(output), or output.url",
    "free": "api.free_memory(unload_models=True)",
    "getItems": "api.get_queue() or api.get_histories()",
    "getModelPreviewUrl": "api.get_model_preview(...)",
    "getNodeDefs": "api.node_definitions(), which it keeps, or api.get_node_defs()",
    "getPromptOutputs": "api.job(prompt_id).result()",
    "getPromptResult": "api.job(prompt_id).result()",
    "getPromptStatus": "api.job(prompt_id).status",
    "getServerFeature": "api.get_features()",
    "getServerFeatures": "api.get_features()",
    "getTerminalLogs": "api.get_raw_logs()",
    "id": "api.client_id",
    "isReady": "api.connected, or api.wait_until_ready()",
    "lastActivity": "job.why() says when news of a prompt came last",
    "listenTerminal": "api.subscribe_logs()",
    "manageQueue": "api.clear_queue() or api.delete_from_queue(prompt_id)",
    "osType": "api.get_system_stats().os",
    "pollQueue": "it asks over HTTP by itself where there is no socket",
    "reconnect": "the client reconnects by itself, for ever; api.init() waits until it has",
    "reconnectWs": "the client reconnects by itself, for ever; api.init() waits until it has",
    "removeAllListeners": "api.on returns a function that removes its callback",
    "removeEventListener": "api.off(name, function)",
    "serverSupportsFeature": "api.get_features()",
    "setTerminalSubscription": "api.subscribe_logs(enabled)",
    "testCredentials": "api.init() raises AuthenticationError; api.ping() asks",
    "viewURL": "api.get_path_image(output), or output.url",
    "waitForPrompt": "api.job(prompt_id).result(timeout)",
    "waitForPromptWebSocket": "api.job(prompt_id).result(timeout)",
    "waitForReady": "api.wait_until_ready()",
}


#: Names of a pool.
POOL: Final[Mapping[str, str]] = {
    "addClient": "pool.add(api)",
    "addEventListener": "pool.on(name, function)",
    "batch": "pool.map(workflow, params), or pool.submit(workflow) for each",
    "changeMode": 'mode is an argument: ComfyPool(servers, mode="shortest")',
    "clients": "pool.servers",
    "close": "pool.shutdown(), or with ComfyPool(servers) as pool",
    "destroy": "pool.shutdown(), or with ComfyPool(servers) as pool",
    "off": "pool.on returns a function that removes its callback",
    "pick": "pool.submit(workflow) chooses the server; pool.servers has all clients",
    "pickById": "pool.submit(workflow, include=[api]); pool.servers has all clients",
    "removeAllListeners": "pool.on returns a function that removes its callback",
    "removeClient": "pool.remove(api)",
    "removeClientByIndex": "pool.remove(pool.servers[index])",
    "wait_until_ready": "pool.init(timeout)",
    "waitForReady": "pool.init(timeout)",
}


#: Names of a job.
JOB: Final[Mapping[str, str]] = {
    "get": "job.result(timeout)",
    "id": "job.prompt_id",
    "image": "job.result().image",
    "images": "job.result().images",
    "outputs": "job.result().outputs",
    "run": "it runs already; job.result() waits for it",
    "state": "job.status",
    "wait": "job.result(timeout), or job.exception(timeout), which raises no error of the job",
}

#: Names of ``api.ext``.
EXTENSIONS: Final[Mapping[str, str]] = {
    "crystools": "api.ext.monitor",
}

#: Names of ``api.ext.monitor``.
MONITOR: Final[Mapping[str, str]] = {
    "checkSupported": "api.ext.monitor.available()",
    "destroy": "api.close(), or with ComfyApi(host) as api",
    "getGpuList": "api.ext.monitor.gpus()",
    "getHddList": "api.ext.monitor.disks()",
    "isSupported": "api.ext.monitor.available()",
    "monitorData": 'api.wait_for("monitor", timeout=10)',
    "off": 'api.off("monitor", function)',
    "on": 'api.on("monitor", function), or signal("monitor")',
    "setConfig": "api.ext.monitor.set(rate=2, cpu=True, ram=True, disk=False, which_disk='/')",
    "setGpuConfig": "api.ext.monitor.set_gpu(index, utilization=True, vram=True, temperature=True)",
    "switch": "api.ext.monitor.start(), or api.ext.monitor.stop()",
}

#: Names of ``api.ext.manager``.
MANAGER: Final[Mapping[str, str]] = {
    "checkExtensionUpdate": "api.ext.manager.update(pack), or update_all(): each tells the new one",
    "checkSupported": "api.ext.manager.available()",
    "defaultUi": "the Manager no longer tells it",
    "fixInstallExtension": "api.ext.manager.fix(pack).result()",
    "getExtensionList": "api.ext.manager.mappings(), or api.ext.manager.installed()",
    "getNodeMapList": "api.ext.manager.mappings(), or api.ext.manager.pack_of(class_type)",
    "getVersion": "api.ext.manager.version",
    "installExtension": "api.ext.manager.install(pack).result()",
    "installExtensionFromGit": "api.ext.manager.install_git(url)",
    "installPipPackages": "api.ext.manager.install_pip(package)",
    "isSupported": "api.ext.manager.available()",
    "previewMethod": 'api.run(workflow, preview_method="taesd")',
    "rebootInstance": "api.ext.manager.reboot()",
    "setActiveExtension": "api.ext.manager.enable(pack), or api.ext.manager.disable(pack)",
    "uninstallExtension": "api.ext.manager.uninstall(pack).result()",
    "updataAllExtensions": "api.ext.manager.update_all()",
    "updateAllExtensions": "api.ext.manager.update_all()",
    "updateComfyUI": "api.ext.manager.update_comfyui().result()",
    "updateExtension": "api.ext.manager.update(pack).result()",
}

#: What the guide calls an object of each class, and the names that it lacks.
_OWNERS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "ComfyApi": ("api", CLIENT),
    "ComfyPool": ("pool", POOL),
    "Job": ("job", JOB),
    "Extensions": ("api.ext", EXTENSIONS),
    "Manager": ("api.ext.manager", MANAGER),
    "Monitor": ("api.ext.monitor", MONITOR),
}


def missing_name(name: str) -> Exception:
    """Return the error for a name that the package lacks; called by its ``__getattr__``.

    ``from comfy_client import CallWrapper`` would replace the text of an ``AttributeError``, so
    that form gets an ImportError.
    """
    text = _about("module 'comfy_client'", name, PACKAGE.get(name))
    frame = inspect.currentframe()
    asking = frame and frame.f_back and frame.f_back.f_back
    if name in PACKAGE and asking and _is_import(asking):
        return ImportError(text, name="comfy_client")
    return AttributeError(text)


def _is_import(frame: types.FrameType) -> bool:
    """Return whether a frame executes ``from module import name``."""
    return opcode.opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM"


def about(name: str, cls: type) -> str:
    """Return the error message for an attribute that a client, pool, job or ``ext`` lacks.

    It has the Python way, or the nearest of the attributes and the arguments of the class.
    """
    called, ways = next(_OWNERS[base.__name__] for base in cls.__mro__ if base.__name__ in _OWNERS)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    arguments = {argument: f"{cls.__name__}({argument}=...)" for argument in _arguments(cls)}
    way = ways.get(name, arguments.get(name))
    if way is None and hasattr(cls, snake):
        way = f"{called}.{snake}{'(...)' if callable(getattr(cls, snake)) else ''}"
    text = _about(f"{cls.__name__!r} object", name, way)
    if way is not None or name.startswith("_"):
        return text
    names = [each for each in dir(cls) if not each.startswith("_")]
    parts = [each for each in names if snake in each.split("_")]  # history: get_history
    found = nearest(snake, [*names, *arguments], 3) or parts[:3]
    near = ", ".join(f"{called}.{each}" if each in names else arguments[each] for each in found)
    return f"{text}; nearest: {near}" if near else text


def _arguments(cls: type) -> list[str]:
    """Return the names of the keyword arguments with which objects of a class are made."""
    for base in cls.__mro__:
        parameters = inspect.signature(base).parameters.values()
        if all(each.kind is not each.VAR_KEYWORD for each in parameters):
            break
    return [each.name for each in parameters if each.default is not each.empty]


def _about(owner: str, name: str, way: str | None) -> str:
    return f"{owner} has no attribute {name!r}" + (f"; the Python way: {way}" if way else "")
