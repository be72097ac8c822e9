"""Immutable, content-addressed sets of policy files, and which of them is active."""
