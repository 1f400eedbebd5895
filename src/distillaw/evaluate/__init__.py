"""What a finished model is worth on text it has not seen."""
