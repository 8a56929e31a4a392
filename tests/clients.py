"""Many clients of `mixvec serve` that speak in real time, and how long their text takes.

    python -m tests.clients http://127.0.0.1:8765/ --clients 50 --seconds 30

Each speaks tones, begins within the first second and sends 100 ms at a time. Printed: the time from its last sample to
its last result, and by how much sending fell behind real time.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import aiohttp
import numpy as np

from tests.tones import pcm, sound


async def speak(url: str, number: int, seconds: float) -> tuple[float, float, int]:
    """Seconds that the last result took, seconds behind real time at the end, number of final results."""
    audio = pcm(sound("..bab a ab...ab ba b" * 9, number))[: round(seconds * 32_000)]
    finals, last_s = 0, 0.0
    async with aiohttp.ClientSession() as client, client.ws_connect(url + "listen") as socket:

        async def read() -> None:
            nonlocal finals, last_s
            async for message in socket:
                row = message.json()
                assert "error" not in row, row
                finals, last_s = finals + row["final"], time.perf_counter()

        reader = asyncio.create_task(read())
        await asyncio.sleep(number % 50 / 50)
        started = time.perf_counter()
        for block, at in enumerate(range(0, len(audio), 3200), 1):
            await asyncio.sleep(max(0.0, started + 0.1 * block - time.perf_counter()))
            await socket.send_bytes(audio[at : at + 3200])
        ended = time.perf_counter()
        await socket.send_str('{"end": true}')
        await reader
        assert socket.close_code == 1000
    return time.perf_counter() - ended, ended - started - len(audio) / 32_000, finals


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    rows = np.array(await asyncio.gather(*(speak(args.url, n, args.seconds) for n in range(args.clients))))
    half, high = np.percentile(rows[:, 0], [50, 95])
    print(f"{args.clients} clients, {args.seconds:g} s each: the last result {half:.2f} s after the end (median), "
          f"{high:.2f} s (95 %); at most {rows[:, 1].max():.2f} s behind; {int(rows[:, 2].sum())} results")  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main())
