"""How fast and how small, each figure beside its floor, both from the same interleaved run (`make bench`)."""
