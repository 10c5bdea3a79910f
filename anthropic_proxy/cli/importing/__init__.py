"""Readers of the configuration of other proxies, for the command `import`, and the plan that they return."""
