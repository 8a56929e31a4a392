"""A headless Chromium for tests of pages. ``python -m tests.browser`` (`make browser`) installs one where there is
none: Debian's package, where root runs it, else Playwright's own into .venv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OWN = Path(sys.prefix) / "browsers"
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ADVICE = "no Chromium was found: run `make browser`, install one (Debian: apt-get install chromium-headless-shell), or set MIXVEC_BROWSER to its path"  # noqa: E501


def find() -> str | None:
    """The path of a Chromium; None where there is none."""
    given = os.environ.get("MIXVEC_BROWSER")
    own = [str(path) for pattern in ("headless_shell", "chrome-headless-shell") for path in OWN.rglob(pattern)]
    found = [given, *map(shutil.which, NAMES), *own]
    return next((path for path in found if path), None)


def install() -> None:
    """Install one where there is none, with the means at hand; exits with advice where that fails."""
    if find():
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for words in (
            ["update", "-qq"],
            ["install", "-qq", "-y", "--no-install-recommends", "chromium-headless-shell"],
        ):
            subprocess.run(["apt-get", *words], env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, check=False)
    if not find():
        words = [sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"]
        subprocess.run(words, env=os.environ | {"PLAYWRIGHT_BROWSERS_PATH": str(OWN)}, check=False)
    if not find():
        sys.exit(f"error: {ADVICE}")


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser object on the Chromium that is installed.

    Raises:
        AssertionError: none is.
    """
    from playwright.sync_api import sync_playwright

    path = find()
    assert path is not None, ADVICE
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


if __name__ == "__main__":
    install()
