"""Recipes: what a file may say, how it is read, and every mistake named with its line; nothing here imports torch."""

from rlkit.recipe.marks import ALGORITHM, FAMILY, NEGATIVE, REWARD, Between, Changes, Kind, OnDisk
from rlkit.recipe.schema import (
    Data,
    Ddpo,
    EncoderReward,
    Evaluate,
    FlowGrpo,
    Generation,
    Grpo,
    Guards,
    HackingGuard,
    Lora,
    Loss,
    Model,
    Nft,
    Noise,
    Online,
    OnlineDpo,
    PlugIn,
    Recipe,
    Retain,
    RewardBackprop,
    Sampling,
    Train,
)
from rlkit.recipe.sections_compare import Compare, System

__all__ = [
    "ALGORITHM", "FAMILY", "NEGATIVE", "REWARD", "Between", "Changes", "Compare", "Data", "Ddpo", "EncoderReward",
    "Evaluate", "FlowGrpo", "Generation", "Grpo", "Guards", "HackingGuard", "Kind", "Lora", "Loss", "Model", "Nft",
    "Noise", "OnDisk", "Online", "OnlineDpo", "PlugIn", "Recipe", "Retain", "RewardBackprop", "Sampling", "System",
    "Train",
]  # fmt: skip
