"""The report in a real browser: nothing is fetched, nothing fails, the accessibility checker has no complaint.

The runs are real: a pretraining and fine-tunings of a few updates, beside one whose every text is markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser import chromium
from tests.runs import UNITS, finetune, pretrain
from tests.tools.run_folders import HOSTILE, finetuning, lines, pretraining
from tools.report.page import render
from tools.report.runs import find_runs

pytestmark = pytest.mark.slow
SIZES = {"desktop": (1280, 900), "phone": (360, 740)}
TEXTS = [(HOSTILE, "turn it off"), ("stop", f"stop {HOSTILE}"), ("one two", "one two two")]


@pytest.fixture(scope="module")
def page_file(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = folder / "runs"
    assert pretrain(corpus, runs / "units", "run.updates=4", base=UNITS) == 0
    for task in ("asr", "intent"):
        keys = (f"pretrained={runs}/units", f"data.test={corpus}/{task}/test", "run.updates=4", "run.eval_every=2")
        assert finetune(task, corpus, runs / task, *keys, "head.layers=weighted") == 0
    hostile = pretraining(runs / f"hostile {HOSTILE[:8]}", name=HOSTILE)
    lines(hostile / "warnings.jsonl", [{"update": 20, "name": HOSTILE, "text": HOSTILE * 9}])
    finetuning(runs / "asr-hostile", "asr", 9.0, TEXTS, HOSTILE)
    (folder / "report.html").write_text(render("every kind", find_runs([runs]), reload_s=3600), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


class Visit:
    """A page with what it asked for and what went wrong on it."""

    def __init__(self, browser: Any, file: Path, size: str, scheme: str) -> None:
        width, height = SIZES[size]
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.goto(file.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page(browser: Any, page_file: Path, size: str, scheme: str) -> None:
    visit = Visit(browser, page_file, size, scheme)
    page = visit.page
    body = page.locator("body").inner_text()
    assert "<script>alert(1)</script>" in body and "{{ 7*7 }}" in body, "hostile text is shown as text"
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1
    outside = [url for url in visit.requests if not url.startswith(("data:", page_file.as_uri()))]
    assert outside == [] and visit.faults == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size][0], "tables and figures scroll by themselves, the page does not scroll sideways"
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert [
        (fault["id"], [node["target"] for node in fault["nodes"]][:3]) for fault in found.response["violations"]
    ] == []
    inks = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in inks]
    assert (light[0] > light[1]) == (scheme == "dark"), "the page follows the theme of its reader"
    page.close()


def test_landmarks_and_order(browser: Any, page_file: Path) -> None:
    page = Visit(browser, page_file, "desktop", "light").page
    assert [page.locator(name).count() for name in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    assert page.get_by_role("region").count() == 4 and page.get_by_role("table").count() >= 6
    figures = page.locator("figure")
    assert figures.count() > 20
    assert all(len(text) > 5 for text in page.locator("figure figcaption").all_inner_texts())
    assert page.locator("figure svg").count() == page.locator("figure figcaption").count() == figures.count()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the runs"


def test_text_is_readable_against_its_ground_in_figures_too(browser: Any, page_file: Path) -> None:
    """The checker leaves SVG out: lines have a contrast of 3:1, text of 4.5:1 (WCAG 2.2, 1.4.11 and 1.4.3)."""
    for scheme in ("light", "dark"):
        page = Visit(browser, page_file, "desktop", scheme).page
        read = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
        colours = {
            name: page.evaluate(read, f"--{name}")
            for name in ("page", "card", "ink", "soft", *(f"c{n}" for n in range(6)))
        }
        for name, colour in colours.items():
            least = 4.5 if name in ("ink", "soft") else 3.0
            assert name in ("page", "card") or min(contrast(colour, colours[g]) for g in ("page", "card")) >= least, (
                name
            )
        assert page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill") != ""
        page.close()


def contrast(one: str, other: str) -> float:
    """Contrast of two colours #rrggbb (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_an_example_can_be_heard_and_seen(browser: Any, page_file: Path) -> None:
    page = Visit(browser, page_file, "desktop", "light").page
    audio = page.locator("audio").first
    assert audio.evaluate("a => new Promise(ok => { a.onloadedmetadata = () => ok(a.duration); a.load(); "
                          "a.preload = 'auto'; setTimeout(() => ok(-1), 5000) })") > 0.5  # fmt: skip
    example = page.locator(".example", has=page.locator("audio")).first
    assert example.locator("svg image").count() == 1
    assert example.locator("svg image").first.evaluate("image => image.getBoundingClientRect().width") > 100
