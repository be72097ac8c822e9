"""Deciding about exact plan bytes."""
