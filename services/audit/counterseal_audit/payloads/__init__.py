"""The sealed part of entries: encrypted on the way in, opened for auditors, checked against the log."""
