"""Groups of ChunkServers, their health, and fid ranges; never on the data path."""
