"""Modules by themselves: no network."""
