"""The audit service's schema."""
