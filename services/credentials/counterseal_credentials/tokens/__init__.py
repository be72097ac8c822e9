"""The trust domain's token service: on whose behalf a call is made."""
