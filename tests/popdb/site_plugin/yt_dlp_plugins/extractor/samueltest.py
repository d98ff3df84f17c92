"""yt-dlp extractors of the test site: a search, and the page of one video."""

import os
from typing import Any

from yt_dlp.extractor.common import InfoExtractor, SearchInfoExtractor
from yt_dlp.utils import ExtractorError


class SamuelTestVideoIE(InfoExtractor):
    IE_NAME: Any = "samueltest"
    _VALID_URL = r"http://127\.0\.0\.1:\d+/watch/(?P<id>[\w-]+)"

    def _real_extract(self, url: str) -> Any:
        page: Any = self._download_json(url, self._match_id(url))
        if reason := page.pop("geo_restricted", None):
            self.raise_geo_restricted(reason, countries=["IS"])
        _raise_what_it_says(page)
        return page


class SamuelTestSearchIE(SearchInfoExtractor):
    IE_NAME: Any = "samueltest:search"
    _SEARCH_KEY = "samueltest"

    def _search_results(self, query: str) -> Any:
        url = os.environ["SAMUEL_TEST_SITE"] + "/search"
        hits: Any = self._download_json(url, query, query={"q": query})
        if isinstance(hits, dict):
            _raise_what_it_says(hits)
        for hit in hits:
            yield {"_type": "url", "ie_key": SamuelTestVideoIE.ie_key(), **hit}


def _raise_what_it_says(answer: Any) -> None:
    if reason := answer.pop("error", None):
        raise ExtractorError(reason, expected=True)
    if reason := answer.pop("bug", None):
        raise ExtractorError(reason)
