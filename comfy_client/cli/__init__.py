"""The command line, ``comfy-client`` (extra ``[cli]``).

Modules:
    main: The group of all commands, and how they end; ``help`` and ``schema``.
    run_command: ``run``, ``rerun`` and ``demo``.
    provide_option: ``run --provide``.
    sweep_command: ``sweep``.
    watch_command: ``watch``, ``wait``, and the changes of a queue and its history.
    mcp_command: ``mcp``.
    serve_command: ``serve``.
    serve_options: The options of ``serve``, and the embedded server that they make.
    serve_watch: What comes to a served server, and when nobody uses it any more.
    served_program: A program that ``serve`` runs beside its server.
    fault_text: Faults of an embedded server as they are written on the command line.
    prompt_commands: ``queue``, ``history``, ``job``, ``cancel`` and ``download``.
    server_commands: ``info``, ``free``, ``logs``, ``doctor``, ``where``, ``models``, ``upload`` and
        ``nodes``.
    pack_commands: ``packs``, ``snapshot`` and ``restart``.
    manager_tasks: Waiting for tasks of ComfyUI-Manager.
    bug_report: The file that ``doctor --report`` writes.
    workflow_commands: ``inputs``, ``convert``, ``example`` and ``stubs``.
    check_command: ``check``, and the files that it finds in folders.
    findings: What is wrong with a file, as a line of text, or for GitHub.
    raw_commands: ``api`` and ``object-info``.
    skill_command: ``skill``: how agents use the other commands.
    server_options: The options that name servers, and the clients they stand for.
    decorators: Types of options that several commands share.
    target: Resolution of options, environment and profiles to a server and its credentials.
    profiles: The config file.
    several_servers: Lists from one server or several, and a pool of the servers that the options
        name.
    workflow_source: Workflows and node definitions from files, or from a server when they are
        needed; completion of ``--set``, ``--axis`` and ``--input``.
    prompt_records: Prompts that a server knows, of hosted ones too, and their workflows.
    input_options: Conversion of ``--set``, ``--input``, ``--seed`` and ``--axis`` to values.
    extra_data: ``--extra-data``, and the API key for partner nodes.
    results: Waiting for a prompt, saving its files, printing its outputs.
    printing: Output of lines, tables and JSON on stdout, of notes on stderr; ``--output`` and
        ``--open``.
    completion: Completion of names that only a server knows.
    shells: Completion in bash, zsh and fish.
    exits: Exit statuses, error messages, and advice: commands for the servers of this one.
    stop_signals: The signals that stop a command.
    own_prompts: The mark of prompts of this installation, and events of those with ``--detach``.
"""
