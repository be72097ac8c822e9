"""The credentials service of Counterseal."""
