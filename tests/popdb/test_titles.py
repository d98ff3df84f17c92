import time
from pathlib import Path

import pytest

from samuel.popdb.search import (
    comparable,
    is_clip,
    likeness,
    other_version,
)
from tests.popdb.choice_cases import read_rows

REAL_LIST = Path(__file__).parents[3] / "shared" / "data" / "song_data.csv"


@pytest.mark.parametrize(
    ("wanted", "title"),
    [
        ("22", "Zed Moka - 22 (Official Video)"),
        ("TRUE", "Moka – True (Official HD Video) [4K]"),
        ("+", "Moka - + (Official Audio)"),
        ("¥£$", "Moka - ¥£$"),
        ("+-", "+- - Moka (Lyrics)"),
        ("❤️", "Moka - ❤ (Lyrics)"),
        ("I 💜 U", "Moka - I 💜 U"),
        ("Fire", "Moka - Fire lyrics HD"),
        ("Radio", "Moka - Radio (Official Music Video)"),
        ("Video", "Moka - Video (Official Video)"),
        ("1979 - Remastered 2012", "Moka - 1979"),
        ("夜に駆ける", "モカ「夜に駆ける」Official Music Video"),
        ("꽃 길", "모카 (Moka) '꽃 길' MV"),
        ("Я свободен", "Мока - Я СВОБОДЕН (Клип)"),
        ("حبيبي", "موكا - حبيبي"),
        ("ﬁre & stone", "Moka - Fire and Stone"),
        ("Don’t Stop Believin’", "Moka - Dont Stop Believin' (Audio)"),
        ("(I Can't Get No) Satisfaction", "Moka - (I Can’t Get No) Satisfaction (Official Lyric Video)"),
        ("Girls Like You (feat. Tavel)", "Moka - Girls Like You ft. Tavel (Official Video)"),
        ("Girls Like You (feat. Tavel)", "Moka ft. Tavel: Girls Like You"),
        ("Girls Like You", "Girls Like You (feat. Tavel) [Explicit]"),
        ("Sunflower - From \"A Film\"", "Moka - Sunflower (Lyrics)"),
        ("Two of Us - 2009 Remaster", "Moka - Two of Us (Remastered 2009)"),
        ("Two of Us - Radio Edit", "Moka | Two of Us | Official Video"),
        ("Two of Us", "Two of Us by Moka (Lyric Video)"),
        ("Two of Us", "Two of Us - Moka"),
        ("Hello/Goodbye", "Moka - Hello / Goodbye"),
        ("Ooh " * 75, "Moka - " + "Ooh " * 75),
    ],
)  # fmt: skip
def test_the_same_title_in_other_words(wanted: str, title: str) -> None:
    assert likeness(wanted, title, "Someone") == pytest.approx(100.0)
    assert other_version(wanted, title, "Someone") == ""


@pytest.mark.parametrize(
    ("wanted", "title"),
    [
        ("22", "Moka - 21"),
        ("1979", "Moka - 1999"),
        ("+", "Moka - Plus"),
        ("+", "Moka - ÷"),
        ("Fire", "Moka - Fireflies"),
        ("Hello", "Moka - Hello Again"),
        ("Fall", "Fall Out Boy - Dance, Dance"),
        ("夜に駆ける", "モカ「夜明け」"),
        ("❤️", "Moka - 💔"),
        ("Ooh " * 75, "Moka - Ooh"),
        ("Velvet Mirror", ""),
    ],
)
def test_another_title_is_less_like(wanted: str, title: str) -> None:
    assert likeness(wanted, title, "Someone") < 80


def test_what_names_the_channel_is_the_artist() -> None:
    for channel in ("Queen Official", "QueenVEVO", "Queen - Topic", "Queen"):
        assert likeness("Queen", "Queen - Radio Ga Ga (Official Video)", channel) < 50
    assert likeness("Queen", "Moka - Queen", "Moka") == 100
    assert likeness("Bad Company", "Bad Company - Bad Company", "Bad Company") == 100


def test_a_title_without_its_groups_is_worth_less() -> None:
    assert likeness("Stay (I Missed You)", "Moka - Stay (I Missed You)", "") == 100
    assert likeness("Stay (I Missed You)", "Moka - Stay", "") == pytest.approx(90)
    assert likeness("Stay", "Moka - Stay (Ultra Release)", "") == pytest.approx(90)


def test_of_a_title_of_many_parts_the_first_are_compared() -> None:
    assert likeness("Velvet Mirror", "| a " * 7 + "| Velvet Mirror", "") == 100
    assert likeness("Velvet Mirror", "| a " * 8 + "| Velvet Mirror", "") < 50


def test_comparable_keeps_words_and_nothing_else() -> None:
    assert comparable("  ＦＵＬＬ-width  Stra\u200bße (Don’t!) ") == "full width strasse dont"
    assert comparable("+-") == "+-"
    assert comparable("हिन्दी") == "हिन्दी"  # vowel signs are marks, not punctuation


@pytest.mark.parametrize(
    "text", ["ft. " * 125, "(" * 500, "([{【" * 125, " - " * 166, "a version " * 50, "|x" * 250]
)
def test_a_title_made_to_cost_time_costs_little(text: str) -> None:
    started_s = time.process_time()
    for _ in range(20):
        likeness(text[:500], text[:500], text[:500])
        other_version(text[:500], text[:500], text[:500])
    assert time.process_time() - started_s < 5


@pytest.mark.parametrize(
    ("title", "clip"),
    [
        ("Moka - Velvet Mirror (Official Music Video)", True),
        ("MOKA '꽃 길' M/V", True),
        ("Moka - Velvet Mirror (Clip officiel)", True),
        ("Moka - Velvet Mirror (Official Lyric Video)", False),
        ("Moka - Velvet Mirror (Audio)", False),
        ("Moka - Videodrome", False),
    ],
)
def test_clips_say_so(title: str, clip: bool) -> None:
    assert is_clip(title) is clip


# --- versions ---


@pytest.mark.parametrize(
    "title",
    [
        "Velvet Mirror (Karaoke Version)",
        "Velvet Mirror - Moka (sing along)",
        "Velvet Mirror (Made Famous By Moka)",
        "Velvet Mirror (Moka Cover)",
        "Zed - Velvet Mirror COVER",
        "Velvet Mirror - Tribute to Moka",
        "Moka - Velvet Mirror (Live at Paradiso)",
        "Moka - Velvet Mirror [LIVE]",
        "Moka - Velvet Mirror | MTV Unplugged",
        "Moka - Velvet Mirror (En Vivo)",
        "Moka - Velvet Mirror (Zed Remix)",
        "Moka - Velvet Mirror [Zed Bootleg]",
        "Moka - Velvet Mirror (Zed Edit)",
        "Moka - Velvet Mirror (Club Mix)",
        "Moka - Velvet Mirror (Extended)",
        "Moka - Velvet Mirror (Spanish Version)",
        "Moka - Velvet Mirror (slowed + reverb)",
        "Velvet Mirror (Sped Up)",
        "Nightcore - Velvet Mirror",
        "Moka - Velvet Mirror (8D Audio)",
        "Moka - Velvet Mirror (Instrumental)",
        "Moka - Velvet Mirror (Acoustic)",
        "Velvet Mirror - 1 hour loop",
        "Velvet Mirror [10 HOURS]",
        "Velvet Mirror - Reaction",
        "Moka - Velvet Mirror (Full Album)",
        "Moka - Velvet Mirror (from MTV Unplugged)",
        "Velvet Mirror | Guitar Tutorial",
    ],
)
def test_words_tell_another_version(title: str) -> None:
    assert other_version("Velvet Mirror", title, "Someone").startswith("says “")
    assert other_version(title, title, "Someone") == ""


@pytest.mark.parametrize(
    "channel", ["Karaoke Hits", "Zed Karaoke - Topic", "Piano Tribute - Topic", "Top Covers"]
)
def test_a_channel_tells_other_versions(channel: str) -> None:
    assert other_version("Velvet Mirror", "Velvet Mirror", channel).startswith("on a channel that says “")
    assert other_version("Velvet Mirror", "Velvet Mirror", "Live Nation") == ""
    assert other_version("Karaoke", "Karaoke", "Karaoke Hits") == ""


@pytest.mark.parametrize(
    ("wanted", "title"),
    [
        ("Alive", "Moka - Alive"),
        ("Oliver", "Moka - Oliver (Lyrics)"),
        ("Discover", "Moka - Discover (Official Video)"),
        ("Remixed Feelings", "Moka - Remixed Feelings"),
        ("Live and Let Die", "Moka - Live & Let Die (Official Video)"),
        ("Cover Me Up", "Moka - Cover Me Up"),
        ("Karaoke", "Moka - Karaoke (Audio)"),
        ("Live Forever - Remastered", "Moka - Live Forever (Official Video)"),
        ("Velvet Mirror", "Moka - Velvet Mirror (Radio Edit)"),
        ("Velvet Mirror", "Moka - Velvet Mirror (Original Mix)"),
        ("Velvet Mirror", "Moka - Velvet Mirror (2019 Mix)"),
        ("Velvet Mirror - Edit", "Velvet Mirror (Edit)"),
        ("Velvet Mirror", "Velvet Mirror - Edit"),
    ],
)
def test_words_of_the_title_itself_are_no_version(wanted: str, title: str) -> None:
    assert other_version(wanted, title, "Someone") == ""


def test_a_word_counts_from_its_second_time_on() -> None:
    reason = other_version("Live and Let Die", "Moka - Live and Let Die (Live at Rio)", "Someone")
    assert reason == "says “live”, the wanted title does not"
    assert other_version("Karaoke", "Moka - Karaoke (Karaoke Version)", "Someone")


@pytest.mark.parametrize(
    ("wanted", "version", "other"),
    [
        ("Velvet Mirror - Live", "Moka - Velvet Mirror (Live at Live Aid)", "Moka - Velvet Mirror"),
        ("Velvet Mirror - Acoustic", "Moka - Velvet Mirror [Acoustic]", "Moka - Velvet Mirror"),
        (
            "Velvet Mirror (Zed Remix)",
            "Moka - Velvet Mirror - Zed Remix",
            "Moka - Velvet Mirror (Official Video)",
        ),
        ("Velvet Mirror - Instrumental", "Velvet Mirror (Instrumental)", "Velvet Mirror (Live Instrumental)"),
    ],
)
def test_the_version_the_list_asks_for_is_taken_and_no_other(wanted: str, version: str, other: str) -> None:
    assert other_version(wanted, version, "Someone") == ""
    assert other_version(wanted, other, "Someone")


@pytest.mark.skipif(not REAL_LIST.is_file(), reason="the song list is not here")
def test_every_title_of_the_list_is_like_itself() -> None:
    forms = ("{}", "Moka - {}", "Moka - {} (Official Video)", "{} - Moka (Lyrics)")
    titles = sorted({row.title for row in read_rows(REAL_LIST)})
    found = [(title, forms[index % 4].format(title)) for index, title in enumerate(titles)]
    lost = [pair for pair in found if likeness(*pair, "Moka") < 89.9 or other_version(*pair, "Moka")]
    assert len(titles) > 10_000
    assert lost == []
