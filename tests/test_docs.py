"""The documents: what they show can be run, and what they point at is there."""

import re
from pathlib import Path
from pydoc import locate

import pytest

from samuel.cli.options import describe
from samuel.config import Settings
from samuel.popdb.status import Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, failed_song, small_settings, sung

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text("utf-8"), re.DOTALL)


def test_the_examples_are_there() -> None:
    assert [
        name in example for name, example in zip(("pandas", "duckdb", "torch"), EXAMPLES, strict=True)
    ] == [True] * 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(
    tmp_path: Path, example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = [sung(encoded_song(tmp_path, name), 0.4, 0.9) for name in "abcd"]
    popdb = write_popdb([*songs, failed_song("e", Status.NO_MATCH)], small_settings(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "data.md", "exec"), names)  # noqa: S102
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_settings_that_are_named_exist(page: Path) -> None:
    """Names in code marks: `samuel.model.unet.SamuelUNet`, `samuel/audio.py`, `training.steps`."""
    text = page.read_text("utf-8")
    files = re.findall(r"`((?:samuel|flows|benchmarks|tests|deploy)/[\w./]+)`", text)
    assert [name for name in files if not (ROOT / name).exists()] == []
    for name in set(re.findall(r"`(samuel(?:\.\w+)+)`", text)):
        assert locate(name) is not None, name
    known = {row["setting"] for row in describe(Settings())}
    sections = {name.partition(".")[0] for name in known if "." in name}
    named = re.findall(r"\b([a-z_]+\.[a-z_]+(?:\.[a-z_]+)*)=", text)
    assert {name for name in named if name.partition(".")[0] in sections} <= known


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 12_000
