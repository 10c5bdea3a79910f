"""The files of deploy/ with the real programs that read them: Helm, nginx, Caddy, HAProxy and systemd."""
