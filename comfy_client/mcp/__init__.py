"""``comfy-client mcp``: workflows as tools for agents (extra ``[mcp]``).

It speaks the Model Context Protocol, stands on the public methods of the
client, and knows nothing of its own about jobs.

Modules:
    protocol: The tools over stdio and HTTP; it alone knows the library ``mcp``.
    desk: One function for each tool and resource.
    runs: Prompts, by ids that are known before they are sent.
    toolbox: Names, descriptions and schemas of the tools.
    roots: The folders whose files an agent may use.
    answers: What an agent reads: bounded, without secrets.
"""
