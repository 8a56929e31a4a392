"""Photograph the top of a report, as README shows it: docs/report.png and docs/report-dark.png.

python docs/screenshot.py runs/demo/report.html      # after make demo and make browser
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from tests.browser import chromium  # noqa: E402


def main() -> None:
    with chromium() as browser:
        for name, scheme in (("report", "light"), ("report-dark", "dark")):
            page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme=scheme)
            page.goto(Path(sys.argv[1]).resolve().as_uri())
            end = page.locator("main .grid").first.bounding_box()
            page.screenshot(path=DOCS / f"{name}.png", full_page=True,
                            clip={"x": 0, "y": 0, "width": 1180, "height": end["y"] + end["height"] + 16})  # fmt: skip


if __name__ == "__main__":
    main()
