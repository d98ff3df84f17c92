from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from samuel.config import Settings, demo, paper, parse, read_settings
from samuel.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"codec": {"name": "mp3"}}, "codec.name"),
        ({"separator": {"name": "spleeter"}}, "separator.name"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"popdb": {"validation_share": 0.9}}, "popdb.validation_share"),
        ({"songs": {"source": "folder"}}, "songs.path"),
        ({"sampling": {"guidance_scale": float("nan")}}, "sampling.guidance_scale"),
        ({"trainning": {}}, "trainning"),
        ({"training": {"seed": 2**63 - 1}}, "training.seed"),
        ({"training": {"weight_decay": float("inf")}}, "training.weight_decay"),
        ({"sampling": {"steps": 900}}, "sampling.steps = 900"),
        ({"model": {"latent_channels": 0}}, "model.latent_channels"),
        ({"evaluation": {"scorers": []}}, "evaluation.scorers"),
        ({"popdb": {"path": 7}}, "popdb.path"),
        ({"songs": {"min_popularity": 50}}, "songs.min_popularity needs songs.source = 'csv'"),
        (
            {"songs": {"source": "csv", "min_duration_s": 9, "max_duration_s": 8}},
            "songs.min_duration_s is above",
        ),
        ({"download": {"search": "ytsearch5:x"}}, "download.search"),
        ({"download": {"extractors": []}}, "download.extractors"),
        ({"download": {"pause_s": 60, "pause_ceiling_s": 30}}, "download.pause_s is above"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, Any], culprit: str) -> None:
    with pytest.raises(SettingsError, match=culprit):
        parse(values)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse({"codec": {"name": "x"}, "training": {"steps": -1}})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "option",
    ["exec_cmd", "outtmpl", "paths", "postprocessors", "cookiefile", "enable_file_urls", "http_headers"],
)
def test_yt_dlp_gets_only_options_that_cannot_do_harm(option: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"download\.ytdlp: .*no {option} here; allowed: .*socket_timeout"
    ):
        parse({"download": {"ytdlp": {option: "touch x", "socket_timeout": 5}}})
    assert parse({"download": {"ytdlp": {"socket_timeout": 5}}}).download.ytdlp == {"socket_timeout": 5}


@pytest.mark.parametrize(
    "proxy",
    ["http://me:secret@proxy:3128", "socks5://me:s@secret@proxy", "me:secret@proxy:3128", "me:a secret'@p"],
)
def test_a_password_is_neither_taken_nor_repeated(proxy: str) -> None:
    with pytest.raises(SettingsError, match="HTTPS_PROXY") as caught:
        parse({"download": {"proxy": proxy}})
    assert "secret" not in str(caught.value)
    assert parse({"download": {"proxy": "http://proxy:3128"}}).download.proxy == "http://proxy:3128"


def test_a_secret_among_refused_options_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        parse({"download": {"ytdlp": {"http_headers": {"Authorization": "secret"}}}})
    with pytest.raises(SettingsError) as whole:
        parse({"download": {"pause_s": 9, "pause_ceiling_s": 8, "proxy": "http://p", "ytdlp": {}}})
    assert "secret" not in str(caught.value)
    assert "http://p" not in str(whole.value)


@pytest.mark.parametrize("proxy", ["htp://host", "foo", "http://", "http://host:99999"])
def test_what_is_no_proxy_is_refused(proxy: str) -> None:
    with pytest.raises(SettingsError, match=r"download\.proxy"):
        parse({"download": {"proxy": proxy}})


@pytest.mark.parametrize(("option", "value"), [("socket_timeout", "abc"), ("ratelimit", "50K")])
def test_options_of_yt_dlp_have_types(option: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{option} must be int or float"):
        parse({"download": {"ytdlp": {option: value}}})


def test_the_default_needs_no_download() -> None:
    settings = demo()
    assert (settings.songs.source, settings.separator.name, settings.codec.name) == (
        "synthetic",
        "repet",
        "mel",
    )
    assert settings.evaluation.scorers == ("signal",)


def test_paper_figures() -> None:
    settings = paper()
    assert settings.popdb.chunk_frames == 1024
    assert settings.download.max_duration_s == 15 * 60
    assert settings.popdb.validation_share == 0.1
    assert settings.diffusion.timesteps == 800
    assert settings.diffusion.cosine_offset == 0.008
    assert settings.diffusion.condition_dropout == 0.1
    assert settings.training.batch_size == 16
    assert settings.training.learning_rate == 3.5e-4
    assert (settings.model.heads, settings.model.head_dim, settings.model.window) == (8, 64, 16)
    assert settings.evaluation.tracks == 10


def test_settings_survive_json() -> None:
    assert Settings.model_validate_json(paper().model_dump_json()) == paper()


def test_settings_are_frozen() -> None:
    settings = demo()
    with pytest.raises(ValidationError, match="frozen"):
        settings.training.steps = 3  # type: ignore[misc]


def test_deployments_carry_the_presets() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    carried = {
        (d["entrypoint"].split(":")[1], d["name"]): parse(d.get("parameters", {})) for d in deployments
    }
    assert carried == {
        ("build_popdb", "build-popdb"): paper(),
        ("build_popdb", "demo"): demo(),
        ("train_and_eval", "train-and-eval"): paper(),
        ("train_and_eval", "demo"): demo(),
        ("ablate", "ablate"): paper(),
        ("ablate", "demo"): demo(),
    }


@pytest.mark.parametrize("name", ["learning", "ablation"])
def test_the_settings_of_the_experiments_are_read(name: str) -> None:
    settings = read_settings(ROOT / "experiments" / f"{name}.json")
    assert settings.songs.seed != Settings().songs.seed  # other songs than the demo's


def test_a_form_shows_units_and_bounds() -> None:
    sections = Settings.model_json_schema()["$defs"]
    download, training = sections["DownloadConfig"]["properties"], sections["TrainingConfig"]["properties"]
    assert download["max_duration_s"]["title"] == "Max duration (seconds)"
    assert download["max_duration_s"]["description"].endswith("15 minutes (above 0, at most 86,400)")
    assert download["search_results"]["description"].endswith("(at least 1, at most 50)")
    assert training["patience"]["description"].endswith("(at least 1)")
    assert all("description" in field for name, field in training.items() if name != "augmentation")
