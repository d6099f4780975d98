"""Policies: what is removed from a model and why, applied, verified and written to a ledger."""
