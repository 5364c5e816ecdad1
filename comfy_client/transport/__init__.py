"""The two edges of the network: HTTP and the WebSocket."""
