"""The pictures of a model card: how the run learned, and what its model confuses."""

from __future__ import annotations

from pathlib import Path

PANELS = {"Loss": "loss.png", "Accuracy": "accuracy.png", "Probe of the frozen encoder": "probe.png",
          "Score on data.valid": "score.png"}  # fmt: skip
CONFUSIONS = "confusions.png"
FILES = (*PANELS.values(), CONFUSIONS)


def write_pictures(model: Path, folder: Path) -> str:
    """Write two or three PNG files into a folder that is published, and give the Markdown that shows them.

    Args:
        model: the model folder of a run directory; of any other there are no pictures.
    """
    if model.name != "hub" or not (model.parent / "metrics.jsonl").is_file():
        return ""
    try:
        from .errors import label_shares
        from .figures import curves, matrix, plain, png
        from .runs import Group, RunFolder
        from .summary import PANELS as report_panels
        from .summary import panel_lines
    except ModuleNotFoundError as error:
        print(f"the model card has no pictures without {error.name}: pip install 'mixvec[report]'")
        return ""
    run = RunFolder(model.parent)
    lines = ["## Training", ""]
    for panel in (panel for panel in report_panels if panel.title in PANELS):
        drawn, text = panel_lines(panel, [Group(run.name, [run])])
        if drawn:
            file = PANELS[panel.title]
            (folder / file).write_bytes(png(curves, drawn, panel.unit))
            lines.append(f"![{panel.title} over the updates: {text}]({file})")
    if run.task and run.task != "asr" and (found := label_shares(run)):
        (folder / CONFUSIONS).write_bytes(png(matrix, *found[:2]))
        lines.append(f"![Confusions: {plain(found[2], 200)}]({CONFUSIONS})")
    return "\n".join([*lines, ""]) if len(lines) > 2 else ""
