"""ComfyUI behind Comfy API v2: Comfy Cloud, serverless deployments and comfy-api-proxy.

The modules are listed from the bottom up.

Modules:
    sse: Frames of event streams from bytes.  Pure.
    models: Jobs, outputs, assets and events, from their JSON.
    unsupported: The reason why Comfy API v2 lacks a route of ComfyUI.
    dialect: The typed error for each refusal, and how an ``Http`` speaks Comfy API v2.
    rejections: Errors for refused workflows.
    places: Addresses of files, from URLs that a server names.  Pure.
    routes: The routes below ``/api/v2``, over an ``Http``.
    assets: Files of workflows that become assets.
    files: Files of jobs and uploads, as assets.
    translation: Jobs in ComfyUI's own words: events, outputs and outcomes.  Pure.
    evidence: The answers about one job, and when a bad one is believed.  Pure.
    sending: Submitting a job exactly once.
    earlier: The jobs of an earlier process.
    streams: The event streams of jobs.
    job_poller: The requests about jobs.
    older_api: Comfy Cloud's older API, for reading only.
    servers: Addresses of servers, and the key for each.
    hosted_settings: The arguments of a client.
    hosted_checks: The doctor's checks.
    api: :class:`HostedApi` and :class:`CloudApi`.
"""
