"""Hosted ComfyUI: Comfy API v2 of Comfy Cloud, serverless deployments and comfy-api-proxy.

Modules:
    sse: Frames of event streams from bytes.  Pure.
    models: Jobs, outputs, assets and events, from their JSON.
    dialect: The typed error for each refusal, and how an ``Http`` speaks Comfy API v2.
    rejections: Errors for refused workflows.
    unsupported: The reason why Comfy API v2 lacks a route of ComfyUI.
    places: Addresses of files, from URLs that a server names.  Pure.
    assets: Files of workflows that become assets.
    files: Files of jobs and uploads, as assets.
    routes: The routes below ``/api/v2``, over an ``Http``.
"""
