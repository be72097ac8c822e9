"""Checkpoints: the signed heads of the logs."""
