"""Which logs exist, and the keys that they need."""
