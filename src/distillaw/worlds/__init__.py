"""Worlds: synthetic languages whose exact next-token distribution is known, and teachers made of it."""
