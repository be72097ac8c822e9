"""Plans after their commit: attempts, read-backs, recovery, compensation."""
