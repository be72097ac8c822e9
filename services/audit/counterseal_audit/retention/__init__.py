"""Payload that has to go or to stay: erasure, retention, legal holds."""
