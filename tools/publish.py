"""Publish a model: write its complete folder, and check that it loads and computes the same.

    python -m tools.publish RUN --to DIR                 # a folder: to look at, to copy, to load from
    python -m tools.publish RUN --to org/name            # the hub, in one commit; log in first: hf auth login
    python -m tools.publish runs/asr --to org/name --private --licence cc-by-4.0 --language en

RUN is a run directory or the model folder itself. The model card names the new location, the licence and the language.
The copy must load and give bit for bit the outputs of the model; from the hub, all of it is downloaded again and
compared. On any failure or interruption DIR stays as it was.
"""

from __future__ import annotations

import math
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from torch import Tensor

import mixvec
from mixvec.atomic import whole_folder
from mixvec.errors import FILESYSTEM_ERRORS, UserError, run_cli
from mixvec.folder import check_replaceable, known_files, required_files, save_folder, sha256
from mixvec.hub import load_model, read_config
from mixvec.model import HEADS
from mixvec.model.frontend import SAMPLE_RATE_HZ
from tools import command_parser
from tools.report.card import FILES as PICTURES
from tools.report.card import write_pictures

RULE = """\
TARGET is a folder if it exists, begins with . / or ~, has not exactly one slash, or its parent is a folder that exists;
otherwise it is org/name on the hub. Write ./a/b for a new folder b in a new folder a."""
WAITS_S = (1.0, 3.0, 9.0)  # before each further attempt
REFUSALS = {
    401: "the hub does not know you: log in with `hf auth login`, or set HF_TOKEN",
    403: "you may not write there: check the organisation, and that the token may write",
    404: "the hub has no such organisation, or you may not see it",
}

Result = TypeVar("Result")


def main() -> None:
    parser = command_parser("publish", f"{__doc__}\n{RULE}")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a model folder")
    parser.add_argument("--to", metavar="TARGET", required=True, help="a folder, or org/name on the hub")
    parser.add_argument("--private", action="store_true", help="on the hub, visible to its owners only")
    parser.add_argument("--licence", "--license", metavar="ID", help="of the model, as the hub writes it: apache-2.0")
    parser.add_argument("--language", metavar="LL", help="of the speech, an ISO 639 code: en")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-written files are removed
    folder = is_folder(args.to)
    if folder and args.private:
        raise UserError(f"--private is for the hub, and {args.to} is a folder. {RULE}")
    source, config = find_model(args.run)
    for key, value in (("licence", args.licence and args.licence.lower()), ("language", args.language)):
        if value is not None:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", value):
                raise UserError(f"--{key} {value!r}: not an id, such as apache-2.0 of a licence or en of a language")
            config.setdefault("training", {})[key] = value
    print(f"publishing {source} to {'the folder' if folder else 'the hub as'} {args.to}", flush=True)
    where = to_folder(source, config, args.to) if folder else to_hub(source, config, args.to, args.private)
    if head := HEADS.get(config["architecture"]):
        command = f"mixvec {head.command} --model {shlex.quote(args.to)} FILES..."
    else:
        code = f"from mixvec.hub import load_encoder; print(load_encoder({args.to!r}))"
        command = f"python -c {shlex.quote(code)}"
    print(f"published: {where}\nuse it:    {command}")


def is_folder(target: str) -> bool:
    """Whether ``target`` is a folder by ``RULE``; otherwise it is ``org/name`` on the hub."""
    path = Path(target)
    return path.is_dir() or target[:1] in (".", "/", "~", "") or target.count("/") != 1 or path.parent.is_dir()


def find_model(run: Path) -> tuple[Path, dict[str, Any]]:
    """The model folder of a run directory, or itself, and its ``config.json``.

    Raises:
        UserError: there is none, or a file of it is missing, which it names.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory or model folder")
    source = run / "hub" if not (run / "config.json").exists() and (run / "hub").is_dir() else run
    config = read_config(source)
    if missing := [name for name in required_files(config) if not (source / name).is_file()]:
        raise UserError(f"{source}: incomplete model folder: {missing[0]} missing; write the folder again")
    return source, config


def to_folder(source: Path, config: dict[str, Any], name: str) -> str:
    """Write the model to the folder ``name``, all of it or nothing.

    Raises:
        UserError: the folder holds something that would be lost, or the copy does not work.
    """
    target = Path(name).expanduser()
    check_replaceable(target)
    known = {*known_files(), *PICTURES}
    foreign = sorted(p.name for p in target.iterdir() if p.name not in known) if target.is_dir() else []
    if foreign:
        raise UserError(f"{target}: {', '.join(foreign[:8])} would be lost there; move it, or choose a new folder")
    with whole_folder(target) as new:
        stage(source, new, config, name)
        check(source, new)
    return name


def to_hub(source: Path, config: dict[str, Any], name: str, private: bool) -> str:
    """Upload the model in one commit, download it, and check that it is the same.

    Raises:
        UserError: the hub refuses it or does not answer, or the download differs.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name}: not a name that the hub takes: letters, digits, - _ . in both parts") from error
    api = HfApi()
    with tempfile.TemporaryDirectory(prefix="mixvec-publish-") as folder:
        staged, cache = Path(folder) / "model", Path(folder) / "cache"
        staged.mkdir()
        stage(source, staged, config, name)
        check(source, staged)
        attempt(name, lambda: api.create_repo(name, private=private or None, exist_ok=True))
        if private and not attempt(name, lambda: api.model_info(name)).private:
            raise UserError(
                f"{name}: is public on the hub already; make it private on its page, or choose another name"
            )
        message = f"Publish a {config['architecture']} with mixvec {mixvec.__version__}"
        commit = attempt(name, lambda: api.upload_folder(repo_id=name, folder_path=staged, commit_message=message)).oid
        again = Path(attempt(name, lambda: snapshot_download(name, revision=commit, cache_dir=cache)))
        for file in sorted(staged.iterdir()):
            if not (again / file.name).is_file() or sha256(again / file.name) != sha256(file):
                raise UserError(f"{name}: uploaded as commit {commit}, but {file.name} is another when it is "
                                "downloaded; publish again")  # fmt: skip
    return f"{constants.ENDPOINT}/{name} (commit {commit})"


def stage(source: Path, folder: Path, config: dict[str, Any], name: str) -> None:
    """Write the model to ``folder`` in today's format, with this installation's code and a card with pictures."""
    save_folder(load_model(source), folder, config.get("training"), name=name)
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(write_pictures(source, folder))


def check(source: Path, copy: Path) -> None:
    """Check that the model in ``copy`` loads and computes what the one in ``source`` does.

    Raises:
        UserError: it does not, or its outputs are not finite.
    """
    expected, found = outputs(source), outputs(copy)
    if not all(tensor.isfinite().all() for tensor in expected):
        raise UserError("the outputs of the model are not finite: its training diverged; publish an earlier one")
    if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
        raise UserError("loaded again, the model gives other outputs")


def outputs(folder: Path) -> list[Tensor]:
    """The outputs of the model in ``folder`` for a batch of two sweeps of 1.5 s, one shorter, on one thread."""
    model, time_s = load_model(folder), torch.arange(round(1.5 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ  # (S,)
    sweep = 0.5 * torch.sin(2 * math.pi * (150 * time_s + 900 * time_s.square()))
    lengths, threads = torch.tensor([len(sweep), len(sweep) // 2]), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            given = model(torch.stack([sweep, sweep]), lengths)
    finally:
        torch.set_num_threads(threads)
    values = given if isinstance(given, tuple) else (given,)
    return [tensor for value in values for tensor in (value if isinstance(value, list) else [value])]


def attempt(name: str, action: Callable[[], Result]) -> Result:
    """Do something with the hub; a 5xx, a 429 or a lost connection is tried again.

    huggingface_hub retries transfers of large files, and no commit.

    Raises:
        UserError: it failed for good, with the remedy.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return action()
        except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in FILESYSTEM_ERRORS:
                raise
            status, why = explain(error)
            if status is not None and status < 500 and status != 429:
                raise UserError(f"{name}: {why}") from error
            if wait_s is None:
                raise UserError(f"{name}: {why} (tried {len(WAITS_S) + 1} times)") from error
        print(f"{why}; trying again in {wait_s:.0f} s", file=sys.stderr, flush=True)
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def explain(error: BaseException) -> tuple[int | None, str]:
    """The HTTP status of an error, None for a lost connection, and a line on it. Never a header, which holds tokens."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return 400, "HF_HUB_OFFLINE is set: unset it to reach the hub"
    for response in [cause.response for cause in chain if getattr(cause, "response", None) is not None]:  # type: ignore[attr-defined]
        status, message = int(response.status_code), response.headers.get("X-Error-Message") or ""
        if status in REFUSALS:
            return status, f"{REFUSALS[status]} (for a folder of that name, write ./ before it)"
        return status, f"the hub answers {status}{': ' if message else ''}{message}"
    if any(isinstance(cause, OSError) for cause in chain):
        return None, f"the hub at {constants.ENDPOINT} cannot be reached: check the network"
    if isinstance(error, ValueError):
        return 400, f"the hub refuses it: {' '.join(str(error).split())}"
    raise error


if __name__ == "__main__":
    run_cli(main)
