"""The audit service of Counterseal."""
