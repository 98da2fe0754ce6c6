"""Faults, and what they come to: campaigns that kill and damage, tests of them, and figures.

A package, so that ``faults`` is this and not ``benchmarks/faults.py``, which runs the campaigns at
full length.
"""
