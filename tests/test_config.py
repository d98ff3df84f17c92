from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from samuel.config import Settings, parse, read_settings
from samuel.errors import InputError, SettingsError

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"codec": {"name": "mp3"}, "training": {"steps": 0}}, "(?s)codec.name.*\n.*training.steps"),
        ({"songs": {"source": "folder"}}, "songs.path"),
        ({"sampling": {"guidance_scale": float("nan")}}, "sampling.guidance_scale"),
        ({"sampling": {"guidance_interval": [0.9, 0.1]}}, "sampling.guidance_interval"),
        ({"trainning": {}}, "trainning"),
        ({"sampling": {"steps": 900}}, "sampling.steps = 900"),
        ({"popdb": {"path": "simplecache::s3://bucket/popdb"}}, "popdb.path: .*a chain of URLs"),
        ({"songs": {"min_popularity": 50}}, "songs.min_popularity needs songs.source = 'csv'"),
        ({"songs": {"source": "csv", "min_duration_s": 9, "max_duration_s": 8}}, "min_duration_s is above"),
        ({"download": {"search": "ytsearch5:x"}}, "download.search"),
        ({"download": {"pause_s": 60, "pause_ceiling_s": 30}}, "download.pause_s is above"),
        ({"download": {"proxy": "htp://host"}}, r"download\.proxy"),
        ({"runner": {"address": "tcp://host:8786"}}, "needs runner.kind = 'dask'"),
        ({"runner": {"kind": "dask", "address": "host:8786"}}, r"runner\.address"),
        # Others of yt-dlp's options can run programs or write anywhere.
        ({"download": {"ytdlp": {"exec_cmd": "touch x", "socket_timeout": 5}}}, r"download\.ytdlp\.exec_cmd"),
        ({"download": {"ytdlp": {"ratelimit": "50K"}}}, r"download\.ytdlp\.ratelimit"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, Any], culprit: str) -> None:
    with pytest.raises(SettingsError, match=culprit):
        parse(values)


@pytest.mark.parametrize(
    "values",
    [
        {"download": {"proxy": "http://me:secret@proxy:3128"}},
        {"download": {"proxy": "socks5://me:s@secret@proxy"}},
        {"download": {"proxy": "me:a secret'@p"}},
        {"download": {"ytdlp": {"http_headers": {"Authorization": "secret"}}}},
        {"download": {"pause_s": 9, "pause_ceiling_s": 8, "proxy": "http://secret"}},
        {"popdb": {"path": "s3://me:secret@bucket/popdb"}, "store": "s3://me:secret@bucket/store"},
        {"runner": {"kind": "dask", "address": "tcp://me:secret@host:8786"}},
    ],
)
def test_what_may_be_secret_is_neither_taken_nor_repeated(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(values)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[]", b'{"data": "%s"}' % (b"a" * 2**20), b"[" * 100_000]
)
def test_a_file_that_holds_no_settings_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"wrong\.json: no JSON object of at most 1,048,576 bytes"):
        read_settings(tmp_path / "wrong.json")
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        read_settings(tmp_path / "absent.json")


def test_paper_figures() -> None:
    settings = Settings(preset="paper")
    assert (settings.popdb.chunk_frames, settings.popdb.validation_share) == (1024, 0.1)
    assert settings.download.max_duration_s == 15 * 60
    assert (settings.diffusion.timesteps, settings.diffusion.cosine_offset) == (800, 0.008)
    assert settings.diffusion.condition_dropout == 0.1
    assert (settings.training.batch_size, settings.training.learning_rate) == (16, 3.5e-4)
    assert (settings.model.heads, settings.model.head_dim, settings.model.window) == (8, 64, 16)
    assert settings.evaluation.tracks == 10


def test_settings_survive_json_and_are_frozen() -> None:
    harmless = {"ytdlp": {"socket_timeout": 5}, "proxy": "http://proxy:3128"}
    settings = parse({"preset": "paper", "download": harmless, "popdb": {"path": "s3://bucket/popdb"}})
    assert settings.popdb_path == "s3://bucket/popdb"
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.training.steps = 3  # type: ignore[misc]


def test_deployments_and_experiments_are_read() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    carried = {
        (d["entrypoint"].split(":")[1], d["name"]): parse(d.get("parameters", {})) for d in deployments
    }
    names = {"build_popdb": "build-popdb", "train_and_eval": "train-and-eval", "ablate": "ablate"}
    papers = {(flow, name): Settings(preset="paper") for flow, name in names.items()}
    assert carried == papers | {(flow, "demo"): Settings() for flow in names}
    for name in ("learning", "ablation"):
        settings = read_settings(ROOT / "experiments" / f"{name}.json")
        assert settings.songs.seed != Settings().songs.seed  # other songs than the demo's


def test_a_form_shows_units_and_bounds_and_refuses_secrets() -> None:
    schema = Settings.model_json_schema()
    sections = schema["$defs"]
    download, training = sections["DownloadConfig"]["properties"], sections["TrainingConfig"]["properties"]
    assert download["max_duration_s"]["title"] == "Max duration (seconds)"
    assert download["max_duration_s"]["description"].endswith("15 minutes (above 0, at most 86,400)")
    assert training["patience"]["description"].endswith("(at least 1)")
    assert all("description" in field for name, field in training.items() if name != "augmentation")
    for field in (download["proxy"], sections["RunnerConfig"]["properties"]["address"]):
        assert "[^@/]" in field["anyOf"][0]["pattern"]
    for field in (schema["properties"]["store"], sections["PopdbConfig"]["properties"]["path"]):
        assert field["anyOf"][0]["pattern"] == r"^(?!\w+://[^/?#]*@)"
