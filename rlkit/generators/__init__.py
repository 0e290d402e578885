"""What algorithms that train generators share: prompts, rewards, pictures of what is made."""
