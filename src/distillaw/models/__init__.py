"""Hugging Face models loaded and scored; made fresh, or out of others: cut, upcycled, with another vocabulary."""
