"""The policy service of Counterseal."""
