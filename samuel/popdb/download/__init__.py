"""Title → video → audio, by yt-dlp (paper §III-C): search, choice and fetch, at a pace the site allows."""
