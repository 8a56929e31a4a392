"""The page of `mixvec serve` in a real browser, with a recorded file as its microphone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.browser import ADVICE, find
from tests.test_architecture import ROOT
from tests.tones import TONE_MODEL, sound

SAID = "ab bab a"


@pytest.mark.slow
def test_the_page_records_and_shows_the_text(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    path = find()
    assert path is not None, ADVICE
    soundfile.write(tmp_path / "speech.wav", sound("...." + SAID + "....", 4).numpy(), 16_000)
    command = [sys.executable, "-m", "mixvec", "serve", "--model", str(TONE_MODEL), "--device", "cpu", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as server:
        try:
            assert server.stdout
            url, faults = server.stdout.readline().split()[0], list[str]()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=path,
                    args=["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                          f"--use-file-for-fake-audio-capture={tmp_path}/speech.wav%noloop"],
                )  # fmt: skip
                page = browser.new_page()
                page.on("console", lambda message: faults.append(message.text))
                page.on("pageerror", lambda error: faults.append(str(error)))
                page.goto(url)
                page.click("text=Record")
                page.wait_for_function("document.getElementById('partial').textContent !== ''", timeout=60_000)
                page.wait_for_selector("#text p", timeout=60_000)
                page.click("text=Stop")
                page.wait_for_selector("text=Record", timeout=60_000)
                shown = page.locator("#text p").all_text_contents()
                assert page.text_content("#status") == ""
                browser.close()
        finally:
            server.terminate()
    assert (shown, faults) == ([SAID], [])
