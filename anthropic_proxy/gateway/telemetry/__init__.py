"""Receipts of finished requests, and the log, metrics and traces that are made of them."""
