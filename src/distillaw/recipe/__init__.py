"""Whole recipes: from a teacher to a small chat model, stage by stage, each a command of its own too."""
