"""The official Python SDK on a socket: what its users call, and the exception that each failure becomes."""
