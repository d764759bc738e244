"""Stateless: placement, replication and failover of chunks."""
