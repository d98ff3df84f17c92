"""Folders of accompaniments by any system, ours and those it is compared with (paper §VI).

Weights come from the hub or a folder; the code is the official one of transformers and diffusers, which the
extra `baselines` brings.
"""
