"""A report on all that is between the client and a result."""
