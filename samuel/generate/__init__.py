"""Vocal → accompaniment: any audio, any length."""

from samuel.generate.accompany import OnStep, accompany, accompany_latents, mix
from samuel.generate.keep import Keep, ranges_of
from samuel.generate.request import Request, Take
from samuel.generate.takes import OnProgress, generate

__all__ = [
    "Keep",
    "OnProgress",
    "OnStep",
    "Request",
    "Take",
    "accompany",
    "accompany_latents",
    "generate",
    "mix",
    "ranges_of",
]
