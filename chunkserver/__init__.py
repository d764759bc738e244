"""One data directory, one process: keeps chunks in the C engine and answers for their bytes."""
