"""Secrets of the sites that a run asks: from the environment, else from Prefect's Secret blocks.

They are no settings: those are shown in the UI, kept in its database and written to logs.
"""

import os
from collections.abc import Mapping

from prefect.blocks.system import Secret

BLOCKS = {
    "HF_TOKEN": "samuel-hf-token",
    "KAGGLE_USERNAME": "samuel-kaggle-username",
    "KAGGLE_KEY": "samuel-kaggle-key",
}


def take_secrets() -> None:
    """Put into this process's environment what is not there and a block has."""
    for variable, block in BLOCKS.items():
        if variable not in os.environ and (value := secret(block)):
            os.environ[variable] = value


def secret(block: str) -> str:
    """The value of a Secret block; empty where there is no such block."""
    try:
        found = Secret.load(block)
    except ValueError:  # that is how Prefect says so
        return ""
    return str(found.get())  # type: ignore[union-attr]  (a coroutine only where a loop runs)


def held() -> dict[str, str]:
    """What this process has of them, for processes that work for it."""
    return {variable: os.environ[variable] for variable in BLOCKS if variable in os.environ}


def hold(secrets: Mapping[str, str]) -> None:
    """Have them in this process, where it has none of its own."""
    for variable, value in secrets.items():
        os.environ.setdefault(variable, value)
