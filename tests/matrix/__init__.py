"""The matrix in docs/compatibility.md: features, backends, what the code does with each, and what proves it."""
