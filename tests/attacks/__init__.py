"""The attack suite: hostile input from clients, models and providers against the real server process."""
