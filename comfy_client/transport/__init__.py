"""The two edges of the network: HTTP and the WebSocket.

From the bottom up:

``url``, ``deadline``, ``backoff``, ``failures``
    The address in what people type as a host; how long work may take, how it ends early, and
    several pieces of work at a time; pauses between attempts; errors in one clear line.
``connections``, ``identity``, ``response``, ``sender``, ``http``
    Connections that keep to a deadline; how the server is reached, and who we are there; answers,
    and the typed error for each refusal; one request on the wire.  The routes ask with
    ``http.Http``.
``resume``, ``multipart``, ``fetch``, ``local_files``
    Downloads that were cut, uploads, downloads from elsewhere, and files on the disk.
``frames``, ``decode``, ``dial``, ``websocket``
    Bytes to messages, messages to events (both pure), the handshake, and the event thread.
``log_filter``
    Keeps secrets out of logs.
"""
