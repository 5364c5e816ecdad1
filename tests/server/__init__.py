"""The embedded server's own tests."""
