"""The search projection: a follower reads the log in order of the index and keeps what the entries say in clear."""
