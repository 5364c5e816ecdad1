"""A hosted ComfyUI: Comfy API v2 in front of the embedded server, on the same executor.

``ComfyServer(hosted="proxy")`` answers as comfy-api-proxy 0.1.6 does in front of the ComfyUI of
``version``; ``"serverless"`` and ``"cloud"`` answer as the specification says of these two places.

Each module imports only modules below it in this list.

Modules:
    gateway: The ports of the surface: start, crash and restart, apart from ComfyUI behind it; all
        routes of v2, the rules for each request; Comfy Cloud's older routes for reading; the
        storage of files on a port of its own, to which clients must send no credentials.
    job_stream: The events of a job as server-sent events.
    job_routes: Submit, poll, list, workflow, cancel; a job as v2 describes it.
    asset_routes: Uploads and downloads; the URLs of files, and their bytes.
    hosted_state: The parts of a running surface, and what it remembers until its process ends.
    v2_errors: Errors in v2's form, and the JSON in the bodies of requests.
    traps: The differences between the three surfaces, and their traps for clients.
"""
