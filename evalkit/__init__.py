"""evalkit measures vision-language models."""
