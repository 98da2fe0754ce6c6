"""Stores that lie elsewhere: on object storage, read through a cache on this machine's disk."""
