"""evalkit inside other harnesses: one module for each."""
