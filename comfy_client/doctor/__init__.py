"""The doctor: checks of everything between the client and a result, and a report on them.

Modules:
    examine: The list of all checks, and ``api.doctor()``, which makes them; packages that are
        older than is advised.
    context: State shared by the checks: client, deadline, second event socket, redaction.
    network_checks: Proxy, name, port and TLS.
    server_checks: Credentials, HTTP, and what the server is and has.
    event_checks: The event socket, a prompt from end to end, the client's own socket.
    report: The report and its parts.
"""
