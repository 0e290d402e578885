"""Algorithms: one file each; `algorithm: dpo` in a recipe is dpo.py here."""
