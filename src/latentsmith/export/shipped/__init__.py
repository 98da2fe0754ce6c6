"""Modules that exports carry along: they run where latentsmith is not installed.

Each is written out by `latentsmith.export.inline.standalone`, with what it imports from this
package put in its place.
"""
