"""What finished models score."""
