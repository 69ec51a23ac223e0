from cepversion import Version as VersionOrder

__all__ = ["VersionOrder"]
