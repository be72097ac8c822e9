"""Placeholder docstring replaced by the module owner."""
