"""Reading: entries, tails, proofs, exports."""
