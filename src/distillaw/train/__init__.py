"""One run: optimiser, schedule, checkpoints and the loop."""
