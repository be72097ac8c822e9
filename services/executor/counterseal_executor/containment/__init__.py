"""The executor's own barrier, and the stream from policy that it follows."""
