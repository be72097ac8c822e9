"""This service's own barrier, and what follows when a scope is stopped: every credential in it is revoked."""
