"""Judging a trained model: metrics on held-out windows, baselines that only count, and the report."""
