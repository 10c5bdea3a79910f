"""Several server processes on one listening socket (`--workers`): workers, their supervisor, and the hub inside it."""
