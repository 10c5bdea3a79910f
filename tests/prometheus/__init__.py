"""Queries and alert rules of deploy/, run by a real Prometheus."""
