"""Python, the packages at the versions in constraints.txt, and what libsndfile can read."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from importlib import metadata

from .finding import ROOT, Finding, probe

PYTHON = ((3, 10), (3, 12))
FORMATS = """
import io, json, numpy, soundfile
lacking = []
for name, subtype in (("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("NIST", None)):
    file = io.BytesIO()
    try:
        soundfile.write(file, numpy.zeros(16000), 16000, format=name, subtype=subtype)
        file.seek(0)
        soundfile.read(file)
    except Exception:
        lacking.append(subtype or name)
print(json.dumps([soundfile.__libsndfile_version__, lacking]))
"""


def python() -> Finding:
    found = sys.version_info[:2]
    evidence = f"{sys.version.split()[0]}, {sys.executable}"
    if PYTHON[0] <= found <= PYTHON[1]:
        return Finding("ok", evidence)
    return Finding("wrong", f"{evidence}; training needs 3.10, 3.11 or 3.12", "make PYTHON=python3.11 install")


def package(name: str, module: str = "") -> Finding:
    """Installed, imports in a process of its own, and is the version that constraints.txt has."""
    found = installed(name)
    if found is None:
        return Finding("wrong", "not installed", pip(name))
    _, failure = probe(f"import {module or name}")
    if failure:
        return Finding("wrong", f"{found} cannot be imported: {failure}", pip("--force-reinstall", name))
    tested = tested_versions(name)
    if tested and found.split("+")[0] not in tested:
        return Finding("warning", f"{found}, tested with {' or '.join(tested)}", pip(name))
    return Finding("ok", found)


def torchaudio() -> Finding:
    torch, audio = installed("torch"), installed("torchaudio")
    if torch and audio and minor(torch) != minor(audio):
        return Finding("wrong", f"{audio} beside torch {torch}: not built for it", pip("torch", "torchaudio"))
    return package("torchaudio")


def fairseq2() -> Finding:
    """fairseq2n, its compiled part, states the one torch that it is built for; libsndfile comes with soundfile."""
    torch = installed("torch")
    pins = [re.match(r"torch==([\d.]+)", line) for line in requirements("fairseq2n")]
    built = next((pin[1] for pin in pins if pin), None)
    if torch and built and torch.split("+")[0] != built:
        return Finding("wrong", f"built for torch {built}; there is {torch}", pip("torch", "torchaudio", "fairseq2"))
    found = package("fairseq2", "soundfile, fairseq2")
    if "libsndfile" not in found.evidence:
        return found
    if "CONDA_PREFIX" in os.environ:  # fairseq2n then looks in that environment alone
        return found._replace(remedy="unset CONDA_PREFIX")
    return found._replace(remedy="sudo apt install libsndfile1")


def libsndfile() -> Finding:
    """Writes and reads a second in each format; MP3 came with libsndfile 1.1."""
    mend = pip("--force-reinstall", "--only-binary=soundfile", "soundfile")
    answer, failure = probe(FORMATS)
    if failure:
        return Finding("wrong", f"soundfile cannot be used: {failure}", mend)
    version, lacking = json.loads(answer)
    if lacking:
        return Finding("wrong", f"{version} has no {', '.join(lacking)}", mend)
    return Finding("ok", f"{version}: WAV, FLAC, Vorbis, Opus, MP3, SPH")


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def tested_versions(name: str) -> list[str]:
    """The versions in constraints.txt; more than one where they differ between versions of Python."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.findall(rf"^{re.escape(name.replace('_', '-'))}==([^\s;]+)", text, re.MULTILINE)


def minor(version: str) -> list[str]:
    return version.split(".")[:2]


def pip(*words: str) -> str:
    """The command that installs the tested versions into the Python that runs this."""
    return shlex.join([sys.executable, "-m", "pip", "install", "-c", "constraints.txt", *words])
