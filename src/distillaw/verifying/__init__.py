"""Predictions frozen before runs, and what came of them."""
