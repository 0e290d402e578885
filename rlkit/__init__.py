"""Preference training and RL for models that describe video and models that generate it."""
