"""Control of an embedded server over HTTP, by tests in any language.

``ComfyServer(control=True)`` listens on a second port for it, on this machine only, or for whoever
has the token.  All paths begin with ``/embedded/v1``; bodies are JSON.  It answers in threads of
its own, so it does so while the server is frozen, killed, or fails by any fault, and no request to
it is one of the server's.

Modules:
    control_service: The port: who may ask, the sizes of bodies, the paths.
    life_routes: Routes for health, stop and restart.
    time_routes: Routes for the speed of a server, for pauses and steps.
    prompt_views: Routes for the prompts that have run.
    fault_control: Routes for faults, and their catalogue, made from the methods of ``Faults``.
    node_routes: Routes for node classes without Python, and for names of model files.
    answer_routes: Routes for answers of routes and nodes, for scripts, and for events.
    request_log: Routes for the requests that the server has received, and for verifying them.
    controlled: What a controlled server must have; a call, and the errors that answer one.
"""

from __future__ import annotations
