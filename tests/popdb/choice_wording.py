"""Names in `choice_cases`; in a video's, {t} is the title, {a} the artist, {b} another one, {p} a place."""

AWKWARD_TITLES = (
    "22", "TRUE", "+", "1979", "Fire", "¥£$", "Alive", "Live and Let Die", "Cover Me Up", "Karaoke", "Radio",
    "꽃 길", "Я свободен", "夜に駆ける", "حبيبي", "❤️", "I 💜 U", "#1 Crush", "Remix to Ignition", "Video",
    "(I Can't Get No) Tavel", "Mr. Ven - Live", "Hello/Goodbye", 'Forever - From "The Grey (Film)"',
    "Ooh " * 75,
)  # fmt: skip
TITLE_WORDS = (
    "fire", "heart", "river", "night", "summer", "ghost", "golden", "midnight", "paper", "stone", "blue",
    "dance", "alive", "discover", "lonely", "sugar", "thunder", "city", "broken", "velvet", "mirror", "dream",
    "holy", "wild",
)  # fmt: skip
TITLE_SHAPES = (
    "{0}", "{0} {1}", "{0} {1}", "The {0} {1}", "{0} of the {1}", "{0}, {1} & {2}", "Don’t {0} My {1}",
)  # fmt: skip
TITLE_ENDS = ("", "", "", "", " (feat. Tavel)", " - Remastered 2009", " - Acoustic")
# What the list adds where an upload of the same recording may leave it out.
SAME_RECORDING = (
    r"remaster|single|album|radio (?:edit|mix|version)|original mix|mono|stereo|bonus|^edit|explicit"
)

SYLLABLES = (
    "ka", "mo", "ri", "sel", "ta", "ven", "lor", "da", "ny", "ju", "zed", "pha", "ro", "mi", "quin", "bar",
)  # fmt: skip
ARTIST_SHAPES = ("{0}", "{0} {1}", "{0} {1}", "The {0}s", "DJ {0}", "{0} & {1}")
TRAP_ARTISTS = ("Live", "Cover Drive", "Oliver", "The Remix Club", "Loop", "8D", "Acoustic Alchemy")
FAN_CHANNELS = (
    "Lyric Cloud", "{b}", "{b} Music", "Seven Skies", "Pop Mania", "Vibes only", "ven1987", "{a} Fan",
)  # fmt: skip
PLACES = (
    "Paradiso", "Red Rocks", "Wembley Stadium", "Glastonbury", "the Late Show", "KEXP", "Tiny Desk", "Rio",
)  # fmt: skip

# Uploads of a recording as it is: share in percent, wordings.
FORMS: dict[str, tuple[int, tuple[str, ...]]] = {
    "topic": (30, ("{t}",)),
    "video": (30, (
        "{a} - {t} (Official Video)", "{a} - {t} (Official Music Video)", "{a} - {t} [Official Video]",
        "{a} - {t} (Official HD Video)", "{a} - {t}", '{a} "{t}" Official Video',
        "{a} - {t} | Official Video", "{a} – {t} (Official Video) [4K]", "{a} - {t} (Official MV)",
        "{a}: {t} (Video Oficial)", "{a} - {t} (From the album Ven)", "{a} - {t} | Tavel (2015)",
    )),
    "audio": (10, (
        "{a} - {t} (Official Audio)", "{a} - {t} (Audio)", "{a} - {t} [Official Visualizer]", "{t}",
        "{a} - {t} [Ultra Ven Release]",
    )),
    "lyrics": (20, (
        "{a} - {t} (Lyrics)", "{t} - {a} (Lyrics)", "{a} - {t} [Lyrics]", "{a} - {t} Lyrics",
        "{a} - {t} lyrics HD", "{t} by {a} (Lyric Video)", "{a} – {t} (Lyrics / Letra)",
        "{t} | {a} | lyrics", "🎵 {a} - {t} (Lyrics) 🎵",
    )),
    "remastered": (10, (
        "{a} - {t} (Remastered 2009)", "{a} - {t} (2011 Remaster)", "{a} - {t} [HQ]", "{t} - Remastered",
    )),
}  # fmt: skip
# Seconds more than the recording: N(0, first), and in a share of the uploads (second) Exp(third) more.
EXTRA_S = {
    "topic": (0.4, 0.0, 1.0),
    "video": (1.0, 0.4, 12.0),
    "audio": (0.8, 0.0, 1.0),
    "lyrics": (1.5, 0.15, 6.0),
    "remastered": (1.5, 0.0, 1.0),
}
COVERS = (
    "{t} - {b} (Cover)", "{b} - {t} ({a} Cover)", "{t} ({a}) cover by {b}", "{a} - {t} [Cover by {b}]",
    "{t} - {a} (Acoustic Cover by {b})", "{t} | {b} cover", "{t} (Piano Cover)", "{t} - Tribute to {a}",
    "{b} covers {t} by {a}", "{b} - {t} (Rock Version)", "{b} sings {t} by {a}",
    "{t} ({a}) - Drum Cover - {b}",
)  # fmt: skip
LYRIC_COVERS = (
    "{t} - {b} cover (Lyrics)", "{b} - {t} (Lyrics) (Cover)", "{t} (cover) lyrics",
    "Lyrics {t} - cover by {b}", "{t} - {b} (Lyrics)", "{b} - {t} (Lyrics)",  # the last two do not say it
)  # fmt: skip
KARAOKE = (
    "{t} - {a} (Karaoke Version)", "{a} - {t} | Karaoke", "{t} (In the Style of {a}) [Karaoke Version]",
    "{t} (Made Popular By {a})", "{a} - {t} (Sing Along)", "{t} (Originally Performed by {a})",
)  # fmt: skip
KARAOKE_CHANNELS = ("Sing King", "Karaoke Hits", "Party Karaoke - Topic", "Zed Karaoke", "Lyric Cloud")
LIVE = (
    "{a} - {t} (Live at {p})", "{a} - {t} (Live)", "{t} - Live", "{a} - {t} [Live from {p} {y}]",
    "{a} performs {t} on {p}", "{a} - {t} @ {p} {y}", "{a} - {t} (MTV Unplugged)", "{a} - {t} | {p} Session",
    "{a} - {t} (En Vivo)", "{a} - {t} ({p} {y})", "{t} LIVE {y}",
)  # fmt: skip
LIVE_CHANNELS = ("{a}", "{a}", "{a} - Topic", "ven1987", "{p}")
REMIXES = (
    "{a} - {t} ({b} Remix)", "{t} ({b} Remix)", "{a} - {t} [{b} Bootleg]", "{a} - {t} ({b} Edit)",
    "{a} x {b} - {t} (Mashup)", "{a} - {t} (Extended Mix)", "{a} - {t} ({b} Rework)", "{a} - {t} (Club Mix)",
    "{t} - {b} Flip", "{t} (Remix)",
)  # fmt: skip
REMIX_CHANNELS = ("{a}", "{b}", "{b} - Topic", "Ultra Ven", "Seven Skies")
SLOWED = ("{a} - {t} (slowed + reverb)", "{t} - {a} (Slowed)", "{t} slowed to perfection")
SPED_UP = ("{a} - {t} (sped up)", "Nightcore - {t}", "{t} (Sped Up Version)")
EFFECTS = ("{a} - {t} (8D AUDIO)", "{a} - {t} [Bass Boosted]", "{t} | 8D", "{a} - {t} (432 Hz)")
INSTRUMENTALS = (
    "{a} - {t} (Instrumental)", "{t} (Official Instrumental)", "{a} - {t} (Backing Track)",
    "{t} - Piano Instrumental", "{a} - {t} (No Vocals)", "{a} - {t} (Inst.)",
)  # fmt: skip
COMPILATIONS = (
    "{a} - Greatest Hits (Full Album)", "{a} Best Songs Playlist {y}", "{t} 1 Hour Loop", "{t} [10 HOURS]",
    "{a} - {t} (Full Album)", "Top Songs {y}: {t}, and more", "{a} - {t} / Medley",
)  # fmt: skip
