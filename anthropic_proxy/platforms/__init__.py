"""Operating-system calls, one module for each concern."""
