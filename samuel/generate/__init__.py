"""Vocal → accompaniment: any audio, any length."""

from samuel.generate.takes import Keep, Request, Take, accompany, accompany_latents, generate, mix, ranges_of

__all__ = ["Keep", "Request", "Take", "accompany", "accompany_latents", "generate", "mix", "ranges_of"]
