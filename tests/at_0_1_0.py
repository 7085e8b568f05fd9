"""What 0.1.0 did, to hold later versions to it: in a checkout of it, `python tests/at_0_1_0.py FILE.zip` made the file.

A run of `fit` that was interrupted, and where it would have ended; storages, pickled; averages in 16 bits after a
training; the public names.
"""

import pickle
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ewa_optax
from ewa_optax import storage

FIXTURE = Path(__file__).parent / "fixtures" / "0_1_0.zip"
OPTIMIZERS = [
    "momentum",
    "heavy_ball",
    "nesterov",
    "signum",
    "lion",
    "rmsprop",
    "adadelta",
    "laprop",
    "rmsprop_momentum",
    "rmsprop_centered",
    "adam",
    "adamw",
    "adamax",
    "amsgrad",
    "yogi",
    "radam",
    "nadam",
    "nadamw",
    "adabelief",
    "ademamix",
    "adan",
    "lars",
    "novograd",
    "lamb",
]
STORAGES = [
    storage.BFloat16(), storage.Float16(squares=True), storage.Float24(min_size=0), storage.EightBit(block=64, seed=3),
    storage.Factored(rounding="nearest"),
]  # fmt: skip


def averages(name):
    """Those in bfloat16 after 20 steps, of an optimizer of that name, as integers of 16 bits."""
    optimizer = getattr(ewa_optax, name)(0.1, storage=storage.BFloat16(min_size=0))
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((4, 32)).astype(np.float32)}
    gradients = rng.integers(-64, 65, (20, 4, 32)).astype(np.float32) / 64

    @jax.jit
    def steps(params, gradients):
        def step(state, g):
            return optimizer.update({"w": g}, state, params)[1], None

        return jax.lax.scan(step, optimizer.init(params), gradients)[0]

    kept = [x for x in jax.tree.leaves(steps(params, gradients)) if x.dtype == jnp.bfloat16]
    return np.concatenate([np.ravel(x).view(np.uint16) for x in kept])


def loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["a"] + params["b"][None])
    return jnp.mean((hidden @ params["c"] - batch["y"]) ** 2)


def fitted(folder, epochs, interrupt=False):
    rng = np.random.default_rng(1)
    data = {"x": rng.standard_normal((44, 3)).astype(np.float32), "y": rng.standard_normal(44).astype(np.float32)}
    params = {"a": np.full((3, 8), 0.1, np.float32), "b": np.zeros(8, np.float32), "c": np.linspace(-1, 1, 8)}
    params["c"] = params["c"].astype(np.float32)

    def end(run):
        return run._replace(stopped="interrupted") if interrupt and run.epoch == 2 else None

    return ewa_optax.fit(
        loss, ewa_optax.adamw(0.05, storage=storage.BFloat16(min_size=0)), params, data,
        batch_size=8, epochs=epochs, key=jax.random.key(0), checkpoint=folder, checkpoint_every=4, callbacks=[end],
        progress=False,
    )  # fmt: skip


def public_names():
    """`module name` of all that a user of the version could import."""
    for module in ("", ".pieces", ".series", ".storage", ".minibatch", ".landscapes", ".plots"):
        face = sys.modules[f"ewa_optax{module}"]
        for name, value in vars(face).items():
            defined = getattr(value, "__module__", None)
            # `storage` was a module of its own, with imports; the others only named what is in private modules.
            ours = name == "NAMED" or (face.__name__ if module == ".storage" else "ewa_optax") in (defined or "")
            if not name.startswith("_") and not isinstance(value, types.ModuleType) and ours:
                yield f"ewa_optax{module} {name}"


def make(file):
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        run = Path(folder) / "run"
        fitted(run, 4, interrupt=True)
        for path in sorted(run.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
        whole = fitted(None, 4)
        np.savez(Path(folder) / "whole.npz", **whole.params, costs=whole.history.costs)
        np.savez(Path(folder) / "averages.npz", **{name: averages(name) for name in OPTIMIZERS})
        for name in ("whole.npz", "averages.npz"):
            archive.write(Path(folder) / name, name)
        archive.writestr("storages.pickle", pickle.dumps(STORAGES))
        archive.writestr("names.txt", "\n".join(public_names()))


if __name__ == "__main__":
    make(sys.argv[1])
