"""The office: which provider and model serve a request, and with which credential."""
