"""The client against a model of the server, on a clock and threads that the test owns."""
