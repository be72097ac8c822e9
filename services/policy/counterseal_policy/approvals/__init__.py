"""People's votes on exact bytes under an exact card."""
