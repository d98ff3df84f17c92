"""`samuel app`: a page where a vocal goes up and an accompaniment comes down. Nothing leaves the machine.

It needs gradio, which the extra `app` brings.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.errors import InputError, MissingPartError
from samuel.generate.accompany import require_codec
from samuel.separators import Separator

QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def serving(model: TrainedModel, codec: Codec, separator: Separator, port: int) -> Iterator[str]:
    """Serve the page to this machine alone, at the address that is given, for as long as the block lasts.

    What goes up and what is made lies in a temporary folder, which is removed at the end. gradio is told by
    environment variables to report to nobody; they stay set.

    Raises:
        MissingPartError: There is no gradio.
        CheckpointError: The model learned another codec's latents.
        InputError: The port of 127.0.0.1 is taken, or none.
    """
    require_gradio()
    require_codec(model, codec)
    if not 1 <= port <= 65_535:
        raise InputError(f"port {port}: must be from 1 to 65535")
    with tempfile.TemporaryDirectory(prefix="samuel-app-", ignore_cleanup_errors=True) as folder:
        os.environ.update(QUIET, GRADIO_TEMP_DIR=f"{folder}/served")
        from samuel.app.page import Page  # now: gradio reads some of these when it is imported

        page = Page(model, codec, separator, Path(folder))
        try:
            yield page.launch(port)
        finally:
            page.close()


def require_gradio() -> None:
    """Raise MissingPartError where there is no gradio, before minutes go into loading a model."""
    if importlib.util.find_spec("gradio") is None:
        remedy = "pip install 'samuel[app]', or in a copy of the repository: uv pip install '.[app]'"
        raise MissingPartError(f"samuel app needs the package gradio: {remedy}")
