"""Model families of the reference implementation."""
