"""Communication with the server, over HTTP and the WebSocket.

Each module imports only modules above it in this list.

Modules:
    url: The server's address, parsed from the host that a user gives.  Pure.
    peers: The kind of network that a connected peer stands in.  Pure.
    deadline: Deadlines of calls, several calls at a time, and pauses between failed attempts.
    failures: Errors in one clear line, and whether the server is away.
    sockets: Sockets whose waits can be ended by any thread, and interrupted on every system.
    connections: Connections that keep to a deadline, their pools, and the heads sent over them.
    multipart: A form with one file, for uploads.
    identity: Address, credentials and connections of a client.
    log_filter: Redaction of secrets in the logs of libraries and in logged tracebacks.
    pieces: Large JSON, decoded value by value, also while it arrives.  Pure.
    response: Answers, and the typed error for each refusal.
    resume: Downloads that resume after an interruption, and remote files read like local ones.
    http: :class:`Http`, through which the routes send requests.
    fetch: Downloads from other servers.
    local_files: Local files, written completely or not at all.
    frames: WebSocket messages from bytes.  Pure.
    decode: Events from messages.  Pure.
    dial: The handshake of the WebSocket, and the connection it makes.
    websocket: The event thread, which keeps one socket open.
"""
