"""Inspectors of the tables `[[inspectors]]`: patterns, and a guardrail service."""
