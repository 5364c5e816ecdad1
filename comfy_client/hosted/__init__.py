"""ComfyUI behind Comfy API v2: Comfy Cloud, serverless deployments and comfy-api-proxy.

The modules are listed from the bottom up.

Modules:
    sse: A parser of server-sent events.  Pure.
    references: References to assets in workflows, and names in place of them.  Pure.
    models: Jobs, outputs, assets and events, from their JSON.
    unsupported: The reason why Comfy API v2 lacks a route of ComfyUI.
    dialect: The typed error for each refusal, and the dialect with which an ``Http`` is made.
    rejections: Errors for refused workflows.
    places: The addresses of files, resolved from URLs in a server's answers.  Pure.
    routes: The routes below ``/api/v2``, over an ``Http``.
    assets: Uploads of files as assets, which send no bytes that the server has.
    storage: Requests to the storages that a server names, and which hosts are acceptable.
    files: Downloads and uploads of files as assets.
    translation: Conversion of jobs to ComfyUI's events, outputs and outcomes.  Pure.
    evidence: The answers about one job, and the rules for believing a bad one.  Pure.
    sending: Submitting a job exactly once.
    earlier: The search for the jobs of an earlier process.
    streams: The event streams of jobs.
    job_poller: The requests of a client about its jobs.
    older_api: Comfy Cloud's older API, for reading only.
    servers: The addresses of hosted servers, and the key for each.
    hosted_settings: The arguments of :class:`HostedApi`.
    hosted_checks: The doctor's checks of a hosted server.
    api: :class:`HostedApi` and :class:`CloudApi`.
"""
