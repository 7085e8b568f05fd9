"""Draws what the pages show of `results/`: the losses of the language model, by steps and by seconds.

Run as `python -m benchmarks.pictures [FILE]` in a checkout, with the `demo` extra installed.
"""

import argparse
import io
import json
from pathlib import Path

from matplotlib import pyplot
from PIL import Image

from benchmarks.pages import RESULTS, ROOT
from benchmarks.views import named

COLOURS = {"AdamW": "#000000", "Lion": "#CC79A7", "Muon": "#0072B2", "NorMuon": "#D55E00", "hyperball": "#009E73"}
SHOWN_BELOW = 3.0


def draw(record: dict, file: Path) -> None:
    """Saves the means of the seeds as lines and their range as a band, kept in 8 bits as dots."""
    tables = {table["title"]: named(table) for table in record["tables"]}
    curves, seconds = tables["losses by step"], tables["a step, its gradient with it"]
    figure, (by_step, by_second) = pyplot.subplots(1, 2, figsize=(9, 3.8), dpi=110, layout="constrained", sharey=True)
    for name, row in curves.items():
        colour = next(colour for start, colour in COLOURS.items() if name.startswith(start))
        dash = ":" if "8 bits" in name else "--" if "bfloat16" in name else "-"
        seeds = [losses for key, losses in row.items() if key.startswith("from seed")]
        for ax, unit in ((by_step, 1.0), (by_second, seconds[name]["seconds"])):
            x = [unit * step for step in row["steps"]]
            ax.plot(x, row["means"], color=colour, linestyle=dash, linewidth=1.6, label=name)
            ax.fill_between(x, [*map(min, *seeds)], [*map(max, *seeds)], color=colour, alpha=0.1, linewidth=0)
    target = curves["AdamW"]["means"][-1]
    for ax, xlabel in ((by_step, "step"), (by_second, "seconds of CPU time")):
        ax.axhline(target, color="grey", linewidth=0.8)
        ax.set(xlabel=xlabel, xlim=(0, None))
        ax.grid(alpha=0.3)
    by_step.text(4, target, "AdamW's last loss", color="grey", fontsize="small", va="top")
    lowest = min(min(row["means"]) for row in curves.values())
    by_step.set(ylabel="loss on held-out text, nats a character", ylim=(lowest - 0.05, SHOWN_BELOW))
    by_second.set_xlim(right=1.25 * by_second.get_xlim()[1])  # Room for the legend.
    by_second.legend(fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    pyplot.close(figure)
    # 256 colours are enough for lines on a plain ground, in a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)


def main() -> None:
    """Draws it where the guide looks for it, or elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "docs" / "assets" / "lm.png", metavar="FILE")
    draw(json.loads((RESULTS / "cpu-2-cores" / "lm.json").read_text()), parser.parse_args().file)


if __name__ == "__main__":
    main()
