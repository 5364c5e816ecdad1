"""The recipes of the guide's page on services, each run as it stands."""
