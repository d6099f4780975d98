"""Benchmarks: recipes, runs, tables."""
