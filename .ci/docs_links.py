"""For mkdocs: a link out of docs/ into the source tree becomes the path's name, since the site holds no sources."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with each link that leaves docs/ written as `path` in the source tree."""
    depth = page.file.src_uri.count("/")

    def plain(match: re.Match[str]) -> str:
        text, ups, path = match.groups()
        if ups.count("..") <= depth:
            return match.group(0)
        name = path.split("#")[0]
        return f"`{name}`" if text.strip("`") == name else f"{text} (`{name}` in the source tree)"

    return OUTSIDE.sub(plain, markdown)
