"""Compute against score: which models nobody beats for their cost, and how surely yours is one."""
