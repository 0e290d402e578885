"""Recipes: what a file may say, how it is read, and every mistake named with its line; nothing here imports torch."""

from rlkit.recipe.marks import ALGORITHM, FAMILY, NEGATIVE, REWARD, Between, Changes, Kind, OnDisk
from rlkit.recipe.schema import (
    Compare,
    Data,
    EncoderReward,
    Evaluate,
    Generation,
    Guards,
    Lora,
    Loss,
    Model,
    Nft,
    Noise,
    PlugIn,
    Recipe,
    Sampling,
    System,
    Train,
)

__all__ = [
    "ALGORITHM", "FAMILY", "NEGATIVE", "REWARD", "Between", "Changes", "Compare", "Data", "EncoderReward", "Evaluate",
    "Generation", "Guards", "Kind", "Lora", "Loss", "Model", "Nft", "Noise", "OnDisk", "PlugIn", "Recipe", "Sampling",
    "System", "Train",
]  # fmt: skip
