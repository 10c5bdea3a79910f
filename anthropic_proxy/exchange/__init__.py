"""Handling of one request, from its body to the last byte of the reply. Contains no provider names."""
