"""Evaluation: protocols are drawn, judged and scored; the catalogue describes the metrics."""
