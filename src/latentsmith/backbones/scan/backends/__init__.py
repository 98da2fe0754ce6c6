"""Ways to compute the scans, one a file."""
