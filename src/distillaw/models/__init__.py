"""Hugging Face models: fresh ones from a size, teachers from a folder; torch lives here."""
