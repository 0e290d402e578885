"""A run while it runs: its folder, its numbers, what the screen shows, and how it is stopped."""
