"""The matrix in docs/guide/matrix.md: features, backends, what the code does with each, and what proves it."""
