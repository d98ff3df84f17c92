"""Vocal → accompaniment: any audio, any length."""

from samuel.generate.accompany import OnStep, accompany, accompany_latents, mix
from samuel.generate.takes import Keep, OnProgress, Request, Take, generate, ranges_of

__all__ = [
    "Keep", "OnProgress", "OnStep", "Request", "Take",
    "accompany", "accompany_latents", "generate", "mix", "ranges_of",
]  # fmt: skip
