"""A resumed run whose data has changed: refused with the counts, or accepted from the next epoch on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mixvec import UserError
from mixvec.training.optim import step
from tests.data.test_archives import tar
from tests.readers import write
from tests.runs import pretrain

KEYS = ("run.updates=5", "run.save_every=1", "run.keep=9", "batch.update_s=6", "batch.max_s=6")


def add_files(data: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        write(data / f"{number}.wav", 2.0)


def add_shard(data: Path, numbers: Sequence[int]) -> None:
    add_files(data / "files", numbers)
    tar(data / f"{numbers[0]:02}.tar", *((f"{n}.wav", data / f"files/{n}.wav") for n in numbers))
    shutil.rmtree(data / "files")


def remove_files(data: Path) -> None:
    for number in (1, 2, 3):
        (data / f"{number}.wav").unlink()


def sources_of_updates(patch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of each update that pretraining computes from now on."""
    updates: list[list[str]] = []

    def recorded(*arguments: Any) -> float:
        updates.append([Path(source).name for part in arguments[-1] for source in part.sources])
        return step(*arguments)

    patch.setattr("pretrain.train.step", recorded)
    return updates


@pytest.mark.parametrize(
    ("add", "change", "words", "left"),
    [
        (add_files, lambda data: add_files(data, range(6, 12)), "6 utterances before, 12 now", range(12)),
        (add_files, remove_files, "6 utterances before, 3 now", (0, 4, 5)),
        (add_shard, lambda data: add_shard(data, range(6, 12)), "1 shards before, 2 now", range(12)),
        (add_shard, lambda data: (data / "00.tar").rename(data / "01.tar"), "other shards", range(6)),
    ],
)
def test_changed_data_is_refused_or_accepted_from_the_next_epoch_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    add: Callable[[Path, Sequence[int]], None], change: Callable[[Path], None], words: str, left: Sequence[int],
) -> None:  # fmt: skip
    """The first epoch has two updates, of which one is done."""
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    add(data, range(6))
    keys = [*KEYS, f"data.train={data}"]
    if add is add_shard:
        keys += ["data.stream=true", "data.buffer_s=12"]
    updates = sources_of_updates(monkeypatch)
    assert pretrain(corpus, run, *keys) == 0
    assert len(updates[0]) == 3 and sorted(updates[0] + updates[1]) == [f"{n}.wav" for n in range(6)]

    def back_to_the_first_update() -> None:
        for number in range(2, 6):
            shutil.rmtree(run / f"checkpoints/update_{number:08d}", ignore_errors=True)
        updates.clear()
        capsys.readouterr()

    whole = updates[1:]
    back_to_the_first_update()
    assert pretrain(corpus, run, *keys) == 0
    assert updates == whole and "run.accept_new_data" not in capsys.readouterr().out, "the data is the same"

    back_to_the_first_update()
    change(data)
    with pytest.raises(UserError, match=rf"run\.dir=.*data\.train: {words}.*run\.accept_new_data"):
        pretrain(corpus, run, *keys)
    assert not updates

    assert pretrain(corpus, run, *keys, "run.accept_new_data=true") == 0
    assert words in capsys.readouterr().out
    seen = [name for update in updates for name in update][: len(left)]
    assert sorted(seen) == sorted(f"{number}.wav" for number in left)
    assert pretrain(corpus, run, *keys) == 0, "the new data is in the checkpoint"
