"""The built site, which `mkdocs build --strict` leaves in `site/`: links, anchors, nothing fetched from elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import araponga_infra
from tests.docs.test_pages import ROOT

SITE = ROOT / "site"
PAGES = sorted(SITE.rglob("*.html"))
FETCHED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href", "object": "data"}
NOT_FETCHED = {"canonical", "next", "prev", "alternate"}


@dataclass
class Page(HTMLParser):
    """Where a page's links lead, which anchors it has, and what a browser fetches for it."""

    path: Path
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    resources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value for name, value in attrs if value}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if named.get(FETCHED.get(tag, "")) and named.get("rel") not in NOT_FETCHED:
            self.resources.append(named[FETCHED[tag]])

    def leads_to(self, link: str) -> Path:
        path = unquote(urlsplit(link).path)
        target = (self.path.parent / path).resolve() if path else self.path
        return target / "index.html" if target.is_dir() else target

    def is_broken(self, link: str) -> bool:
        target, anchor = self.leads_to(link), unquote(urlsplit(link).fragment)
        if not target.is_file():
            return True
        return bool(anchor) and target.suffix == ".html" and anchor not in read(target).anchors


@cache
def read(path: Path) -> Page:
    return Page(path)


def is_elsewhere(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def is_well_formed(link: str) -> bool:
    parts = urlsplit(link)
    return parts.scheme == "https" and "." in parts.netloc and " " not in link


def name_of(page: Path) -> str:
    return str(page.relative_to(SITE))


def test_the_site_is_built() -> None:
    assert SITE / "index.html" in PAGES, "run `mkdocs build --strict` first, or `nox -s docs`"


# The page for what is not found is served at any depth, so its links are relative to none.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "404.html"], ids=name_of)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    here = read(page)
    assert [link for link in here.links if not is_elsewhere(link) and here.is_broken(link)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_elsewhere_are_well_formed(page: Path) -> None:
    assert [link for link in read(page).links if is_elsewhere(link) and not is_well_formed(link)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_fetches_nothing_from_elsewhere(page: Path) -> None:
    assert [resource for resource in read(page).resources if is_elsewhere(resource)] == []


def test_style_sheets_fetch_nothing_from_elsewhere() -> None:
    fetching = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^\"')]*")
    found = [match for sheet in SITE.rglob("*.css") for match in fetching.findall(sheet.read_text(encoding="utf-8"))]
    assert found == []


def test_every_public_name_has_its_place() -> None:
    anchors = set().union(*(read(page).anchors for page in (SITE / "reference").glob("*.html")))
    assert [name for name in araponga_infra.__all__ if f"araponga_infra.{name}" not in anchors] == []
