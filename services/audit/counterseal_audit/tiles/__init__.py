"""Logs as files for outsiders: the export directory, and reading it over plain HTTP (C2SP tlog-tiles)."""
