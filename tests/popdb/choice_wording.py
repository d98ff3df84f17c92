"""The names of `choice_wording.toml`."""

import tomllib
from pathlib import Path
from types import SimpleNamespace

wording = SimpleNamespace(**tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")))
