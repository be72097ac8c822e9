"""The one door to Vault (HashiCorp Vault's API of 1.14, or OpenBao), and to hvac."""

from counterseal.vault.client import (
    Certificate,
    Login,
    Signer,
    TransitSigner,
    Vault,
    VaultRefused,
    VaultUnavailable,
    VersionMoved,
)

__all__ = [
    "Certificate",
    "Login",
    "Signer",
    "TransitSigner",
    "Vault",
    "VaultRefused",
    "VaultUnavailable",
    "VersionMoved",
]
