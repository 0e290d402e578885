"""What the published checkpoints share: strict loading, and rows, pixels and frames as their authors fed them."""
