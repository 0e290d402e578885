"""Rewards over HTTP and over files: the server, what travels, the client, and jobs that resume."""
