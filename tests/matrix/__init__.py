"""The matrix in docs/guide/matrix.md: features, backends, the behavior of the code, and its proof."""
