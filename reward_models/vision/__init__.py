"""A vision encoder with heads, trained by `algorithm: reward`: what it sees, what it says, how it is kept on disk."""
