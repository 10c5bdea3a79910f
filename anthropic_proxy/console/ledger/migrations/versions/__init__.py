"""Migrations of the ledger, one module per schema version."""
