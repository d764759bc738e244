"""Files (path -> fragments) and the registry's catalogue: repositories, blobs, manifests, tags, uploads."""
