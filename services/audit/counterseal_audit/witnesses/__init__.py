"""Witnesses: second parties that cosign a log's heads, and the policy that says which of them suffice."""
