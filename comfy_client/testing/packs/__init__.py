"""Node packs with routes of their own, which an embedded server plays: ``ComfyServer(packs=...)``.

Each module imports only modules below it in this list.

Modules:
    registry: The packs by name.
    fake_packs: The packs that a test makes and gives to a server.
    crystools: ComfyUI-Crystools, its events and routes.
    manager3: ComfyUI-Manager 3.
    manager4_legacy: ComfyUI-Manager 4 with its old page.
    manager4: ComfyUI-Manager 4.
    manager4_queue: The queue of Manager 4: its worker, the history, and batches.
    manager4_params: Tasks of Manager 4, and the parameters that it reads in them.
    manager_old: The common part of Manager 3 and the old page of Manager 4.
    manager: The common part of all Managers.
    manager_models: Model files that a Manager installs.
    manager_security: The security levels of a Manager.
    installed: The packs that a Manager has installed, and what it does with them.
    listed: The lists of a Manager: packs and models that it can install.
    pack: The base class of packs, and the server as they see it.
"""
