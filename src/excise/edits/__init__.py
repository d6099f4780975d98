"""Edits: deltas of weights with a record; their files, and how they are applied to a model and removed."""
