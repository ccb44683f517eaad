"""Metrics as pure functions, one published definition per file."""
