"""Folders of accompaniments by any system, ours and those it is compared with (paper §VI)."""
