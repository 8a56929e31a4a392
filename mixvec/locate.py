"""Where a model is: a folder here, or a repository on the hub, downloaded into the hub client's cache."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import FILESYSTEM_ERRORS, UserError

LOST: tuple[type[Exception], ...] = (OSError, HfHubHTTPError.__bases__[0])
"""What the hub client raises where a connection fails: from version 1 on errors of httpx, which are no OSError."""
PATTERNS = ["*.json", "*.safetensors", "*.md", "tokenizer.model"]
"""What is downloaded: no code."""


def resolve(
    name_or_path: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a model: a hub folder, a run directory (its ``hub/``), or a hub repository, downloaded.

    Args:
        name_or_path: a folder, ``org/name``, ``org/name@revision`` or ``hf://org/name``.
        revision: a commit, tag or branch of a repository.
        token: to read the repository with; None for the one that is logged in, False for none.
        cache_dir: where downloads are kept, instead of the hub client's own cache.
        local_files_only: take what the cache holds, without asking the hub.

    Raises:
        UserError: neither exists, or the hub cannot be reached.
        OSError: the disk of the cache is full or the like; it names what was downloaded.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path / "hub" if not (path / "config.json").exists() and (path / "hub").is_dir() else path
    name = str(name_or_path)
    if path.exists():
        raise UserError(f"{name}: a file; give the model folder that it is in")
    name = re.sub(r"^hf://(models/)?", "", name).rstrip("/")
    if revision is None and name.count("@") == 1:
        name, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith(".") or revision == "":
        what = (
            "models are read from folders and from the hub; copy it here" if "://" in name else "no such model folder"
        )
        raise UserError(f"{name_or_path}: {what}")
    try:
        return Path(snapshot_download(name, revision=revision, token=token, cache_dir=cache_dir,
                                      local_files_only=local_files_only, allow_patterns=PATTERNS))  # fmt: skip
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: the hub has no revision {revision or 'main'} of it") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if constants.HF_HUB_OFFLINE:
            which = f"revision {revision} of it" if revision else "such model"
            raise UserError(f"{name}: no such folder here, and no {which} in the hub's cache, where HF_HUB_OFFLINE=1 "
                            "looks alone; unset it, or download the model with the network") from error  # fmt: skip
        why = "no copy of it is in the cache" if local_files_only else "the hub cannot be reached to look there"
        raise UserError(f"{name}: no such folder here, and {why}; check the path or the network") from error
    except GatedRepoError as error:
        raise UserError(f"{name}: the hub gives it only to those who accepted its terms; do so on its page") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{name}: no such folder here, and no such model on the hub (or it is private: log in)"
        ) from error
    except LOST as error:
        if isinstance(error, OSError) and error.errno in FILESYSTEM_ERRORS:
            error.filename = error.filename or f"{name} in {cache_dir or constants.HF_HUB_CACHE}"
            raise  # this machine's disk, not the hub
        raise UserError(f"{name}: the hub did not answer ({type(error).__name__}); try again later") from error
