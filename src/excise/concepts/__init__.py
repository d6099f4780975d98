"""Concepts, the lists that name them, and vocabularies of what to keep."""
