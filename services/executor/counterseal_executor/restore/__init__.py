"""Is this database as new as the ledger (I12)? After a restore to an older state nothing may be served from it."""
