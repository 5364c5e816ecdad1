"""``comfy-client mcp``: workflows as tools for agents (extra ``[mcp]``).

It speaks the Model Context Protocol, stands on the public methods of the
client, and knows nothing of its own about jobs.

* :mod:`~comfy_client.mcp.roots`: the folders whose files an agent may use
* :mod:`~comfy_client.mcp.answers`: what an agent reads, bounded, without secrets
* :mod:`~comfy_client.mcp.toolbox`: the tools, with the schemas of their arguments
* :mod:`~comfy_client.mcp.runs`: prompts, by ids that are known before they are sent
* :mod:`~comfy_client.mcp.desk`: one function for each tool and resource
* :mod:`~comfy_client.mcp.protocol`: stdio and HTTP; it alone knows the library ``mcp``
"""
