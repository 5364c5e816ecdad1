"""Servers, proxies and other users that mean us ill."""
