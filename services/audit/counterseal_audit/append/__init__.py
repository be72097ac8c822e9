"""Appending: check, batch, write, answer."""
