"""Whether this machine can train, and how fast: what `distillaw doctor` looks at."""
