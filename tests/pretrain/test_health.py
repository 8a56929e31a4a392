"""The named warnings: fired by the diseases as they were seen, silent on healthy runs."""

from __future__ import annotations

from typing import Any

import pytest

from pretrain.config import PretrainConfig
from pretrain.health import diagnose


def row(loss: float, accuracy: float, codes: float, share: float = 0.5) -> dict[str, Any]:
    return {"update": round(share * PretrainConfig().run.updates), "contrastive_loss": loss, "chance_loss": 4.615,
            "accuracy": accuracy, "code_perplexity": codes, "max_perplexity": 640}  # fmt: skip


@pytest.mark.parametrize(
    "sick",
    [
        row(0.0, 1.0, 2.0),  # all targets one code: every distractor drops out
        row(0.3, 0.95, 50.0),
        row(2.853, 0.570, 3.0, share=0.2),  # `small` with lr 1.5e-3 and diversity weight 0.1 on one-minute batches
        row(4.240, 0.325, 5.0, share=0.2),  # its attention twin
    ],
)
def test_a_collapsed_codebook_is_named(sick: dict[str, Any]) -> None:
    found = diagnose(sick, PretrainConfig())
    assert any("collapsed codebook" in line and "objective.diversity_weight" in line for line in found)


def test_stuck_at_chance_is_named_after_warm_up_alone() -> None:
    assert ["stuck at chance" in line for line in diagnose(row(4.61, 0.02, 500.0), PretrainConfig())] == [True]
    assert diagnose(row(4.61, 0.02, 500.0, share=0.05), PretrainConfig()) == []


@pytest.mark.parametrize("healthy", [row(3.582, 0.212, 59.0), row(4.096, 0.072, 593.0), row(1.5, 0.7, 300.0)])
def test_a_healthy_run_is_left_in_peace(healthy: dict[str, Any]) -> None:
    assert diagnose(healthy, PretrainConfig()) == []
