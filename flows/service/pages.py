"""Reports and their audio for the browser, as it opens no `file://` link from the UI.

`make serve` runs it: `python -m flows.service.pages --port 4201 --directory artifacts`. It only reads, it
answers to this machine alone, and what does not lie in that folder is not there.
"""

import argparse
import mimetypes
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

HOST = "127.0.0.1"


class Files(StaticFiles):
    """Files of a folder, by GET and HEAD, whole or in parts; it lists nothing and follows no link out."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """A file, which a browser takes for what its name says."""
        response = super().file_response(*args, **kwargs)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def application(directory: Path) -> Starlette:
    """What serves the files of a folder to the browser of this machine."""
    mimetypes.add_type("audio/flac", ".flac")  # Python's own table lacks it
    return Starlette(
        routes=[Mount("/", Files(directory=directory))],
        # A strange page could otherwise read them, by a name of its own that leads here.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def main() -> int:
    """Serve until interrupted; 1 where the port is in use."""
    parser = argparse.ArgumentParser(description="Reports and their audio for the browser of this machine.")
    parser.add_argument("--port", type=int, default=4201, help="of 127.0.0.1: no other machine reaches it")
    parser.add_argument("--directory", type=Path, default=Path("artifacts"), help="what is served")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    try:
        bound = socket.create_server((HOST, options.port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        print(
            f"error: {HOST}:{options.port}: {reason}; give another --port, or set SAMUEL_PAGES_PORT",
            file=sys.stderr,
        )
        return 1
    with bound:
        try:
            uvicorn.Server(uvicorn.Config(application(options.directory), log_level="warning")).run([bound])
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
