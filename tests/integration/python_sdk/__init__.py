"""The official Python SDK on a socket: the calls of its users, and the exception for each failure."""
