"""ComfyUI behind Comfy API v2: Comfy Cloud, serverless deployments and comfy-api-proxy.

The modules are listed from the bottom up.

Modules:
    sse: A parser of server-sent events.  Pure.
    references: References to assets in workflows, and names in place of them.  Pure.
    models: Jobs, outputs and events from their JSON, and as ComfyUI's.  Pure.
    dialect: The typed error for each refusal, and the reason why a route of ComfyUI is missing.
    file_urls: The addresses of files, resolved from URLs in a server's answers.  Pure.
    routes: The routes below ``/api/v2``, over an ``Http``; errors for refused workflows.
    assets: Uploads of files as assets, which send no bytes that the server has.
    files: Downloads and uploads of files as assets, in storages that are acceptable.
    evidence: The answers about one job, and the rules for believing a bad one.  Pure.
    sending: Submitting a job exactly once.
    job_poller: The requests of a client about its jobs, and their event streams.
    older_api: Comfy Cloud's older API, for reading only.
    servers: The addresses of hosted servers, and the key for each.
    hosted_checks: The doctor's checks of a hosted server.
    api: :class:`HostedApi` and :class:`CloudApi`, and their arguments.
"""
