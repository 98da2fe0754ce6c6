"""One loop, many tasks."""
