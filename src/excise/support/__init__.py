"""Helpers that every package uses: files, settings, digests, precision, input checks. No model code."""
