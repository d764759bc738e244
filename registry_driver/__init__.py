"""The storage driver (streams <-> chunks) and the registry that stands on it (OCI Distribution API)."""
