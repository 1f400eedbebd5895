"""A run is a folder anyone can read with cat: specs, folders, tables, paired differences. No torch."""
