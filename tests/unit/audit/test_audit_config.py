"""What the audit service's own table refuses: each bound on both of its sides."""

import pytest

from counterseal_audit.config import AuditConfig

BOUNDS = {
    "checkpoint_interval_ms": (50, 60_000),
    "lease_seconds": (2, 300),
    "heartbeat_minutes": (1, 1440),
    "rotation_overlap_hours": (0, 8760),
    "proof_cache_mib": (1, 65_536),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_number_out_of_its_bounds_is_refused_by_name(name: str) -> None:
    least, most = BOUNDS[name]
    for good in (least, most):
        assert getattr(AuditConfig(**{name: good}), name) == good  # type: ignore[arg-type]
    for bad in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"{name}: expected {least} to {most}"):
            AuditConfig(**{name: bad})  # type: ignore[arg-type]
