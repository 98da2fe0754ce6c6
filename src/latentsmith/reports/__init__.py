"""Runs → tables, plots, one self-contained HTML page."""
