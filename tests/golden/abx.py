"""The ABX error of the words below by fastabx 0.9.0, which needs Python 3.12: 0.2003616839647293.

python tests/golden/abx.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

ERROR = 0.2003616839647293


def words() -> tuple[list[Any], list[str], list[str]]:
    """90 words, (T, 16) each, their labels and their speakers: states in order, a shift for each speaker, and noise."""
    rng = np.random.default_rng(0)
    frames, labels, speakers = [], [], []
    for _ in range(90):
        word, speaker = rng.integers(6), rng.integers(5)
        states = np.random.default_rng(100 + word).standard_normal((12, 16))
        shift = np.random.default_rng(200 + speaker).standard_normal(16)
        length = rng.integers(8, 20)
        kept = states[np.sort(rng.integers(0, 12, length))]
        frames.append((kept + 0.8 * shift + 1.2 * rng.standard_normal((length, 16))).astype(np.float32))
        labels.append(f"w{word}")
        speakers.append(f"s{speaker}")
    return frames, labels, speakers


def main() -> None:
    import fastabx  # type: ignore[import-not-found]
    import polars  # type: ignore[import-not-found]
    import torch

    frames, labels, speakers = words()
    ends = np.cumsum([len(word) for word in frames])
    places = {number: (int(end) - len(frames[number]), int(end)) for number, end in enumerate(ends)}
    accessor = fastabx.InMemoryAccessor(places, torch.from_numpy(np.concatenate(frames)), torch.device("cpu"))
    dataset = fastabx.Dataset(labels=polars.DataFrame({"label": labels, "speaker": speakers}), accessor=accessor)
    task = fastabx.Task(dataset, on="label", across=["speaker"])
    cells = fastabx.Score(task, "angular", progress=False).cells
    pairs = cells.group_by("label", "label_b").agg(polars.col("score").mean())  # over pairs of speakers first
    print(pairs.select(polars.col("score").mean()).item())


if __name__ == "__main__":
    main()
