"""Vocal → accompaniment: any audio, any length."""

from samuel.generate.accompany import CHUNK_FRAMES, OnStep, accompany, accompany_latents, mix

__all__ = ["CHUNK_FRAMES", "OnStep", "accompany", "accompany_latents", "mix"]
