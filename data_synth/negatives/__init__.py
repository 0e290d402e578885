"""Negatives: one file each, a true caption in, a wrong one with its evidence out."""
