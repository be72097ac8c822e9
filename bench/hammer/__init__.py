"""Load and correctness together, against real replicas: what is acknowledged must be there, once, where it was said.

`python -m bench.hammer` writes and reads at once, kills replicas if asked to, and then verifies everything: every
acknowledgement against the exported log, the export by `counterseal audit verify`, the root by hashing again.
"""
