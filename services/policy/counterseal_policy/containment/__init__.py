"""The kill switch's source of truth: trip, lift, watch, and adopting what was stopped without us."""
