"""Several server processes (workers) that share one listening socket, for the option `--workers`.

The supervisor process starts and replaces the workers. The hub in the supervisor passes messages between them.
"""
