"""The planner page: one HTML file with every law, device and teacher inside, exact to the library (docs/page.md)."""
