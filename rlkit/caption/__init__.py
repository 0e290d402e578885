"""Captioners in training: clips and pairs become rows, rows become log-probs, and a loop around them."""
