"""Plans from proposal to commit, and what readers see of them."""
