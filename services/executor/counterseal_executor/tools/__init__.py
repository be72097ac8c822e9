"""The registry: immutable tools, by name and version."""
