"""The executor service of Counterseal."""
