"""Draws the picture of the README: four optimizers in a ravine, each at the rate that `03_momentum_rmsprop_adam` found.

Run as `python -m notebooks.race [--frames N] [FILE]` in a checkout, with the `demo` extra installed.
"""

import argparse
import tempfile
from pathlib import Path

from matplotlib import pyplot
from PIL import Image, ImageSequence

import ewa_optax
from ewa_optax import landscapes, plots

RUNNERS = {
    "gradient descent": ewa_optax.gradient_descent(0.0173),
    "momentum": ewa_optax.momentum(0.039),
    "RMSprop": ewa_optax.rmsprop(0.039),
    "Adam": ewa_optax.adam(0.101),
}
STEPS = 120
MILLISECONDS = 60
LAST_MILLISECONDS = 3000


def draw(file: Path, frames: int) -> None:
    """Saves the race as an animation that begins anew at its end."""
    ravine = landscapes.ravine(100.0)
    paths = {name: landscapes.path(runner, ravine, ravine.start, STEPS) for name, runner in RUNNERS.items()}
    figure, ax = pyplot.subplots(figsize=(7.2, 4.2), dpi=80, layout="constrained")
    ax.set(title=" ")  # So that the layout leaves room for what the race writes there.
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "race.gif"
        plots.race(ravine, paths, frames=frames, ax=ax).save(drawn, writer="pillow")
        with Image.open(drawn) as movie:
            pictures = [picture.convert("RGB") for picture in ImageSequence.Iterator(movie)]
    pyplot.close(figure)
    # One palette for all, so that from one to the next only what moves is stored: a tenth of the bytes.
    palette = pictures[-1].quantize(256, dither=Image.Dither.NONE)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    durations = [MILLISECONDS] * (len(pictures) - 1) + [LAST_MILLISECONDS]
    first.save(file, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


def main() -> None:
    """Draws it where the README looks for it, or elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).parent / "race.gif", metavar="FILE")
    parser.add_argument("--frames", type=int, default=61, help="how many pictures, 2 or more (default: 61)")
    options = parser.parse_args()
    if options.frames < 2:
        parser.error(f"argument --frames: must be 2 or more, got {options.frames}")
    draw(options.file, options.frames)


if __name__ == "__main__":
    main()
