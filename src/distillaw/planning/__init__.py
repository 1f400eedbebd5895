"""From laws and measured runs to a verdict."""
