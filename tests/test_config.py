import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from samuel.config import SECRET_PATTERN, Settings, parse, read_settings, without_secrets
from samuel.errors import InputError, SamuelError, SettingsError

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
        ({"popdb": {"path": "http://["}}, r"popdb\.path: .*Invalid IPv6"),
        ({"store": "http://host:99999/x"}, "store: .*Port out of range"),
        ({"store": "gopher://host/x"}, "store: .*of no protocol that can be used .'gopher'"),
        ({"store": "filecache://x"}, "store: .*of no protocol that can be used .'filecache'"),
        ({"store": "zip://a.zip::file:///x"}, "store: .*no text, path or URL"),
        ({"download": {"proxy": "http://host:99999"}}, r"download\.proxy: .*Port out of range"),
        ({"songs": {"source": "folder", "path": "a\0b"}}, r"songs\.path: .*a text with NUL"),
        ({"data": "\ud800"}, "data: .*surrogates not allowed"),
        ({"training": {"steps": 10**4000}}, r"training\.steps: .{,200}$"),
        ({f"k{number}": 1 for number in range(3000)}, "and 2990 more$"),
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
        {"runner": {"kind": "dask", "address": "tcp://me:secret@host:8786"}},
    ],
)
def test_what_may_be_secret_is_neither_taken_nor_repeated(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(values)
    assert "secret" not in str(caught.value)


SECRET_URLS = (
    "s3://me:secret@bucket/popdb", "s3://KEY:se/secret+@bucket", "https://host/x?X-Amz-Signature=secret",
    "https://host/x#access_token=secret", "https:/me:secret@host/x", "simplecache::s3://me:secret@bucket",
    "look at https://host/?token=secret first",
)  # fmt: skip
HARMLESS = ("s3://bucket/a b", "https://host:80/x", "hf://datasets/o/n@main/x", "C:/x?y=z", "/music/a?b=#1")


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_setting_takes_a_url_that_may_hold_a_secret_and_prefect_stores_none(url: str) -> None:
    schema = Settings.model_json_schema()  # by which Prefect's server refuses before it writes a run down
    for values in (
        {"store": url}, {"data": url}, {"popdb": {"path": url}}, {"codec": {"path": url}},
        {"musicgen": {"prompt": url}}, {"download": {"proxy": url}}, {"training": {"steps": url}},
        {"download": {"extractors": [url]}}, {"download": {"ytdlp": {"extractor_args": {"a": {"b": [url]}}}}},
    ):  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            parse(values)
        assert "secret" not in str(caught.value)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values, schema)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_taken_and_shown(text: str) -> None:
    values = {"musicgen": {"prompt": text}, "songs": {"path": text}}
    jsonschema.validate(values, Settings.model_json_schema())
    assert parse(values).musicgen.prompt == without_secrets(text) == text


def test_what_may_be_secret_is_not_shown() -> None:
    for text, shown in (
        ("no (URL('https://h/x?sig=secret'), 3)", "no (URL('https://h/x?… 3)"),
        ("with url: /media/x?sig=secret (Caused by …)", "with url: /media/x?… (Caused by …)"),
        ("git+https://me:secret@h:8/x: not found", "git+https://…@h:8/x: not found"),
    ):
        assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"[]",
        b'{"data": "%s"}' % (b"a" * 2**20),
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"training": {"steps": %s}}' % (b"9" * 5_000),
    ],
)
def test_a_file_that_holds_no_settings_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_bytes(content)
    with pytest.raises(SamuelError, match=r"wrong\.json: (not JSON|no JSON object|over 65,536 bytes)"):
        read_settings(tmp_path / "wrong.json")
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        read_settings(tmp_path / "absent.json")
    os.mkfifo(tmp_path / "pipe.json")
    for strange in (tmp_path / "pipe.json", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            read_settings(strange)


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
    assert training["patience"]["description"].endswith("(at least 1, at most 1,000,000,000)")
    assert all("description" in field for name, field in training.items() if name != "augmentation")
    for field in (download["proxy"], sections["RunnerConfig"]["properties"]["address"]):
        assert "[^@/?#]" in field["anyOf"][0]["pattern"]
    for field in (schema["properties"]["store"], sections["PopdbConfig"]["properties"]["path"]):
        assert field["anyOf"][0]["pattern"] == SECRET_PATTERN
