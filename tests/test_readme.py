"""What the README shows can be run."""

import re
from pathlib import Path

import pytest

from samuel.popdb.status import Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, failed_song, small_settings
from tests.popdb.shards.songs import sung

README = Path(__file__).resolve().parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_the_examples_are_there() -> None:
    assert [re.search(r"import (\w+)", example)[1] for example in EXAMPLES] == ["pandas", "duckdb", "torch"]  # type: ignore[index]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(
    tmp_path: Path, example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = [sung(encoded_song(tmp_path, name), 0.4, 0.9) for name in "abcd"]
    popdb = write_popdb([*songs, failed_song("e", Status.NO_MATCH)], small_settings(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    if "pandas" in names:
        assert "validation" in said
        assert names["pair"]["vocal_share"] == 0.9  # type: ignore[index]
        assert names["vocal"].shape == (64, 64)  # type: ignore[attr-defined]
    if "duckdb" in names:
        assert re.search(r"no_match\W+1\W+0\W+it is no_match", said)
    if "batches" in names:
        assert len(names["pairs"]) == len(popdb.pairs("train"))  # type: ignore[arg-type]
        assert names["vocal"].shape == (2, 64, 64)  # type: ignore[attr-defined]
