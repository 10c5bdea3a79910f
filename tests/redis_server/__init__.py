"""Tests of the store with a real Redis or Valkey server, which they stop, pause and start again."""
