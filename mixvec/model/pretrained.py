"""What a published folder and its code agree on; loading and saving it, which the package ``mixvec`` implements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

FORMAT = 2
"""The form of a hub folder. In format 1, of mixvec 0.1.0, ``head_norm`` of heads is called ``norm``."""
ENCODER = "SpeechEncoder"
"""The ``architecture`` of an encoder without a head."""
AUTO_MAP = {
    "AutoConfig": "configuration_mixvec.MixvecConfig",
    "AutoModel": "modeling_mixvec.MixvecModel",
    "AutoModelForCTC": "modeling_mixvec.MixvecForCTC",
    "AutoModelForAudioClassification": "modeling_mixvec.MixvecForAudioClassification",
    "AutoModelForAudioXVector": "modeling_mixvec.MixvecForAudioXVector",
}
"""The class of a published folder's code that each Auto class of transformers loads."""
Model = TypeVar("Model", bound="Pretrained")


class Pretrained:
    """A model that can be loaded and saved once ``mixvec`` is imported, which sets ``loader`` and ``saver``."""

    loader: ClassVar[Callable[..., Any] | None] = None
    saver: ClassVar[Callable[[Any, str | Path], None] | None] = None

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_path: str | Path,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Model:
        """Load a model of this class from a hub folder, run directory or hub repository, in eval mode.

        Args:
            name_or_path: a folder, ``org/name`` or ``hf://org/name``.
            revision: a commit, tag or branch of a repository.
            token: to read the repository with; None for the one that is logged in, False for none.
            cache_dir: where downloads are kept, instead of the hub client's own cache.
            local_files_only: take what the cache holds, without asking the hub.

        Raises:
            UserError: there is no such model, it is of another class, or a tensor is missing, extra or misshapen.
        """
        if cls.loader is None:
            raise RuntimeError(f"{cls.__name__}.from_pretrained needs the package mixvec")
        return cls.loader(cls, name_or_path, revision, token, cache_dir, local_files_only)  # type: ignore[no-any-return]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a hub folder: configuration, weights, preprocessor configuration, model card and what a head needs.

        Raises:
            UserError: ``folder`` holds files that are not a model of mixvec.
        """
        if self.saver is None:
            raise RuntimeError(f"{type(self).__name__}.save_pretrained needs the package mixvec")
        type(self).saver(self, folder)  # type: ignore[misc]
