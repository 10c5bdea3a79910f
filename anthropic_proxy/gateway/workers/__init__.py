"""Several server processes (workers) that share one listening socket, for the option `--workers`."""
