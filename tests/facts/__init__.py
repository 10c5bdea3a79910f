"""Facts that end: the table of models beside the types of the newest SDK packages."""
