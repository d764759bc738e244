"""Plain scripts that print one table each. Run them as `python -m benchmarks.<name>`."""
