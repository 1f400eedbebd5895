"""A study: from one TOML file to jobs, and the local scheduler that runs them."""
