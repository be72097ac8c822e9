"""The exit codes of every `counterseal` command."""

OK = 0
INTERNAL = 1
USAGE = 2
REFUSED = 3
"""Refused, incomplete, findings, not canonical, drift."""
TAMPERED = 4
DENIED = 5
APPROVAL_PENDING = 6
IN_DOUBT = 7
UNAVAILABLE = 8
