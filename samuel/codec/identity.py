"""Are latents those of the codec at hand?"""

import logging

from samuel.codec.base import Codec

logger = logging.getLogger(__name__)

PUBLISHED = "published"
"""In the place of a codec's version and weights, where latents came without either."""


def made_by(stated: str, codec: Codec) -> bool:
    """True where latents of the identity `stated` are the codec's own.

    Published latents state the codec's name alone. They are taken for those of any codec of that name, with a
    warning: whether its weights made them shows only when they are decoded.
    """
    name, _, rest = stated.partition("/")
    believed = rest == PUBLISHED and codec.identity.partition("/")[0] == name
    if believed:
        logger.warning(
            "latents were published as those of %s, by weights unknown; they are taken for those of %s",
            name,
            codec.identity,
        )
    return believed or stated == codec.identity
