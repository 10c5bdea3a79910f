"""A Messages API request becomes a reply, for any provider. No settings file, no server, no database."""
