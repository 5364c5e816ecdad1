"""The recipes of the guide's pages on services, each run as it stands."""
