"""What several test tiers share: real servers, signers, data."""
