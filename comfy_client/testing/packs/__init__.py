"""Node packs with routes of their own, which an embedded server plays: ``ComfyServer(packs=...)``.

Each module imports only modules below it in this list.

Modules:
    registry: The packs by name.
    crystools: ComfyUI-Crystools, its events and routes.
    manager4: ComfyUI-Manager 4, its version.
    pack: The base class of packs, and the server as they see it.
"""
