"""Publish a model: write its complete folder, and check that it loads and computes the same.

    python -m tools.publish RUN --to DIR                 # a folder: to look at, to copy, to load from
    python -m tools.publish RUN --to org/name            # the hub, in one commit; log in first: hf auth login
    python -m tools.publish runs/asr --to org/name --private --licence cc-by-4.0 --language en

    python -m tools.publish runs/asr --to s3://bucket/asr --licence cc-by-4.0 --language en

RUN is a run directory or the model folder itself. The model card names the new location, the licence and the language;
the hub and stores require both (the language is the data's, where its rows state one). The copy must load and give bit
for bit the outputs of the model, and the same in transformers where that is installed; from the hub or a store, all of
it is downloaded again and compared. On any failure or interruption DIR stays as it was.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

import mixvec
from mixvec.atomic import whole_folder
from mixvec.card import ways
from mixvec.errors import FILESYSTEM_ERRORS, UserError, redacted, run_cli
from mixvec.folder import CODE, check_replaceable, code_files, known_files, required_files, save_folder, sha256
from mixvec.hub import load_model, read_config
from mixvec.locate import LOST
from mixvec.model import HEADS
from mixvec.text import tokenizer_file
from tools import command_parser
from tools.report.card import FILES as PICTURES
from tools.report.card import write_pictures
from tools.verify import check

RULE = """\
TARGET is a folder if it exists, begins with . / or ~, has not exactly one slash, or its parent is a folder that exists;
otherwise it is org/name on the hub, or hf://org/name. Write ./a/b for a new folder b in a new folder a. Any other URL,
such as s3://bucket/folder, is written through fsspec."""
FAILURES: tuple[type[Exception], ...] = (*LOST, RuntimeError, ValueError)
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
    parser.add_argument("--to", metavar="TARGET", required=True, help="a folder, org/name on the hub, or a URL")
    parser.add_argument("--tag", metavar="NAME", help="on the hub, a name for this revision: v1.0")
    parser.add_argument("--private", action="store_true", help="on the hub, visible to its owners only")
    parser.add_argument("--licence", "--license", metavar="ID", help="of the model, as the hub writes it: apache-2.0")
    parser.add_argument("--language", metavar="LL", help="of the speech, an ISO 639 code: en")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-written files are removed
    target = args.to.removeprefix("hf://")
    store = "://" in target
    folder = not store and is_folder(target) and target == args.to
    for option, given in (("--private", args.private), ("--tag", args.tag)):
        if given and (folder or store):
            raise UserError(f"{option} is for the hub, and {args.to} is not on it. {RULE}")
    source, config = find_model(args.run)
    for key, value in (("licence", args.licence and args.licence.lower()), ("language", args.language)):
        if value is not None:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", value):
                raise UserError(f"--{key} {value!r}: not an id, such as apache-2.0 of a licence or en of a language")
            config.setdefault("training", {})[key] = value
    for key in ("licence", "language"):
        if not folder and not config.get("training", {}).get(key):
            raise UserError(f"--{key} is required to publish to {args.to}: an id, such as apache-2.0 of a licence or "
                            "en of a language")  # fmt: skip
    kind = "the folder" if folder else "the store" if store else "the hub as"
    print(f"publishing {source} to {kind} {target}", flush=True)
    where = to_folder(source, config, target) if folder else publish(source, config, target, args.private, args.tag)
    print(f"published: {where}")
    staged = config | {"auto_map": None} if config["encoder"].get("kind") == "mixvec" else config
    for way in ways(staged, HEADS.get(config["architecture"]), target):
        print(f"\nwith {way.needs}:\n\n    " + way.code.replace("\n", "\n    "))


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


def to_store(staged: Path, again: Path, url: str) -> str:
    """Write the model to a URL: config.json, without which it is no model and which has every hash, last.

    Raises:
        UserError: there is no access.
    """
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(url)
        if system.exists(f"{root}/config.json"):
            system.rm_file(f"{root}/config.json")
        for file in sorted(staged.iterdir(), key=lambda path: path.name == "config.json"):
            system.put_file(str(file), f"{root}/{file.name}")
        for file in staged.iterdir():
            system.get_file(f"{root}/{file.name}", str(again / file.name))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{redacted(url)}: {' '.join(str(error).split())}") from error
    return url


def to_hub(staged: Path, again: Path, name: str, private: bool, title: str) -> str:
    """Upload the model in one commit, and download it; the commit.

    Raises:
        UserError: the hub refuses it or does not answer.
    """
    api = HfApi()
    attempt(name, lambda: api.create_repo(name, private=private or None, exist_ok=True))
    if private and not attempt(name, lambda: api.model_info(name)).private:
        raise UserError(f"{name}: is public on the hub already; make it private on its page, or choose another name")
    message = f"Publish a {title} with mixvec {mixvec.__version__}"
    made = attempt(name, lambda: api.upload_folder(repo_id=name, folder_path=staged, commit_message=message))
    nothing = again / ".none"  # so that all is downloaded
    attempt(name, lambda: snapshot_download(name, revision=made.oid, local_dir=again, cache_dir=nothing))
    return str(made.oid)


def publish(source: Path, config: dict[str, Any], target: str, private: bool, tag: str | None) -> str:
    """Write the model to the hub or a store, read it again, and check that it is the same; where it is now.

    Raises:
        UserError: it is refused, or the files differ when they are read again.
    """
    store = "://" in target
    try:
        validate_repo_id("org/name" if store else target)
    except HFValidationError as error:
        raise UserError(f"{target}: not a name that the hub takes: letters, digits, - _ . in both parts") from error
    with tempfile.TemporaryDirectory(prefix="mixvec-publish-") as folder:
        staged, again = Path(folder) / "model", Path(folder) / "again"
        staged.mkdir()
        again.mkdir()
        stage(source, staged, config, target)
        check(source, staged)
        place = to_store(staged, again, target) if store else to_hub(
            staged, again, target, private, config["architecture"])  # fmt: skip
        for file in sorted(staged.iterdir()):
            if not (again / file.name).is_file() or sha256(again / file.name) != sha256(file):
                raise UserError(f"{target}{'' if store else f', commit {place}'}: uploaded, but {file.name} is another "
                                "when it is downloaded; publish again")  # fmt: skip
    if store:
        return place
    if tag:
        api = HfApi()
        attempt(target, lambda: api.create_tag(target, tag=tag, revision=place, exist_ok=True))
        if (named := attempt(target, lambda: api.model_info(target, revision=tag)).sha) != place:
            raise UserError(f"{target}: published as commit {place}, but --tag {tag} names {named} already; choose "
                            "another")  # fmt: skip
    return f"{constants.ENDPOINT}/{target} (commit {place}{f', tag {tag}' if tag else ''})"


def stage(source: Path, folder: Path, config: dict[str, Any], name: str) -> None:
    """Write the model to ``folder`` in today's format, with this installation's code and a card with pictures."""
    pieces = tokenizer_file(source)
    save_folder(load_model(source), folder, config.get("training"), name=name,
                tokenizer=pieces if pieces.is_file() else None)  # fmt: skip
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(write_pictures(source, folder))
    for file in code_files():
        if (source / file).is_file() and (old := sha256(source / file)) != (new := sha256(CODE / file)):
            print(f"{file}: SHA-256 {old[:12]}… in {source}, {new[:12]}… in mixvec {mixvec.__version__}, which is "
                  "published")  # fmt: skip


def attempt(name: str, action: Callable[[], Result]) -> Result:
    """Do something with the hub; a 5xx, a 429 or a lost connection is tried again.

    huggingface_hub retries transfers of large files, and no commit.

    Raises:
        UserError: it failed for good, with the remedy.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return action()
        except FAILURES as error:
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
    response = next((cause.response for cause in chain if getattr(cause, "response", None) is not None), None)  # type: ignore[attr-defined]
    if response is not None:
        status, message = int(response.status_code), response.headers.get("X-Error-Message") or ""
        if status in REFUSALS:
            return status, f"{REFUSALS[status]} (for a folder of that name, write ./ before it)"
        return status, f"the hub answers {status}{': ' if message else ''}{message}"
    if any(isinstance(cause, LOST) for cause in chain):
        return None, f"the hub at {constants.ENDPOINT} cannot be reached: check the network"
    if isinstance(error, ValueError):
        return 400, f"the hub refuses it: {' '.join(str(error).split())}"
    raise error


if __name__ == "__main__":
    run_cli(main)
