"""Whether a loss, a trainer or a script computes what it was declared to compute."""
