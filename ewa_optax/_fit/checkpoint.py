"""Checkpoints of a training in mid-epoch, through orbax: what a killed run goes on from, to the bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._fit.result import Fitted, to_arrays, with_arrays
from ewa_optax._interrupts import held_back
from ewa_optax._stacks import stack_leaves_like, unstack_leaves
from ewa_optax.minibatch._sources import Source, fingerprint
from ewa_optax.pieces._layerwise import for_checkpoint, for_older_checkpoint, from_checkpoint

FORMAT = "ewa_optax.fit 1"


class Checkpoints:
    """A folder of checkpoints of one run, the last two of which are kept; None keeps none.

    Ctrl-C while one is written is told by `tell`, and interrupts when that is done.
    """

    def __init__(self, folder: Any, every: int | None, settings: dict[str, Any], tell: Callable[[str], None]) -> None:
        self.settings, self._tell = {"format": FORMAT, **settings}, tell
        self.every, self.folder, self._manager = every, folder, None
        if folder is not None:
            checkpoint = _orbax()
            self.folder = folder if "://" in str(folder) else Path(folder).expanduser().absolute()
            if isinstance(self.folder, Path) and self.folder.exists() and not self.folder.is_dir():
                raise ValueError(f"checkpoint must be a folder, got the file {str(self.folder)!r}; name another.")
            self._manager = checkpoint.CheckpointManager(
                self.folder, options=checkpoint.CheckpointManagerOptions(max_to_keep=2)
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *failure: Any) -> None:
        if self._manager:
            self._manager.close()

    def save(self, run: Fitted) -> None:
        """Saves, when it is time, in the background; what is not written whole does not count."""
        with self._uncut() as interrupts:
            self._save(run)
        if interrupts:
            raise KeyboardInterrupt

    def finish(self, run: Fitted) -> None:
        """Saves the end of a run, and waits until that is written; Ctrl-C has nothing left to end then."""
        with self._uncut():
            self._save(run)
            if self._manager:
                self._manager.wait_until_finished()

    def _save(self, run):
        number = len(run.history.costs)
        due = run.stopped or (number % self.every == 0 if self.every else run.step == 0)
        if not self._manager or not due or run.stopped == "not finite" or number in self._manager.all_steps():
            return
        args, history = _orbax().args, to_arrays(run.history)
        at = {"epoch": run.epoch, "step": run.step, "history": {name: _kind(x) for name, x in history.items()}}
        self._manager.save(
            number,
            args=args.Composite(
                run=args.JsonSave({"settings": self.settings, **at}),
                state=args.StandardSave(_filled(_state(run))),
                history=args.StandardSave(_filled(history)),
            ),
        )

    def restored(self, run: Fitted) -> Fitted:
        """The run as the latest checkpoint has it; as it is, if there is none yet."""
        if self._manager is None or (number := self._manager.latest_step()) is None:
            return run
        args = _orbax().args
        try:
            at = self._manager.restore(number, args=args.Composite(run=args.JsonRestore()))["run"]
            saved = at["settings"]
        except Exception as failure:
            raise ValueError(self._unreadable(number, "is none that fit wrote, or is torn")) from failure
        now, like = json.loads(json.dumps(self.settings)), _state(run)
        older = for_older_checkpoint(unstack_leaves(_of(run)))
        if saved.get("opt_state") == fingerprint(older["opt_state"]):
            now["opt_state"], like = saved["opt_state"], older
        other = [
            f"{name}: {saved.get(name)!r} there, {now.get(name)!r} here"
            for name in {*saved, *now}
            if saved.get(name) != now.get(name)
        ]
        if other:
            raise ValueError(
                f"the checkpoints in {self.folder} are of another run ({'; '.join(sorted(other))}); "
                "give this run a folder of its own, or the settings of that one."
            )
        try:
            kept = self._manager.restore(
                number,
                args=args.Composite(
                    state=args.StandardRestore(_filled(jax.tree.map(_abstract, like))),
                    history=args.StandardRestore(),
                ),
            )
        except Exception as failure:
            raise ValueError(self._unreadable(number, "is torn, or of another model")) from failure
        state = jax.tree.map(_as_it_lay, like, _refilled(like, kept["state"]))
        state = stack_leaves_like(_of(run), from_checkpoint(unstack_leaves(_of(run)), state))
        empty = {name: np.zeros(shape, dtype) for name, (shape, dtype) in at["history"].items()}
        history = with_arrays(run.history, {**empty, **_refilled(empty, kept["history"])})
        return run._replace(**state, history=history, epoch=at["epoch"], step=at["step"])

    def _uncut(self):
        return held_back(lambda: self._tell("interrupted; ends when the checkpoint that is being written is whole"))

    def _unreadable(self, number, reason):
        earlier = [n for n in self._manager.all_steps() if n < number] if self._manager else []
        then = f"to go on from checkpoint {max(earlier)}" if earlier else "to start anew"
        return (
            f"checkpoint {number} in {self.folder} {reason}; it was left as it is: move the folder "
            f"{str(number)!r} in there away {then}, or name another folder."
        )


def _state(run):
    """In the form of the model, whether or not it is kept in stacks, and of the averages of 0.1.0."""
    return for_checkpoint(unstack_leaves(_of(run)))


def _of(run):
    return {"params": run.params, "opt_state": run.opt_state, "best_params": run.best_params}


def _filled(tree):
    """The leaves by number, without the empty ones, which orbax can't keep; it can't keep nothing either."""
    leaves = {str(i): x for i, x in enumerate(jax.tree.leaves(tree)) if np.prod(x.shape)}
    return {**leaves, "end": np.zeros(1)}


def _refilled(like, leaves):
    """The tree with those leaves, and the empty ones of `like`."""
    kept, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [leaves.get(str(i), x) for i, x in enumerate(kept)])


def _abstract(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _as_it_lay(like, x):
    """On no device in particular, if it was on none: else it would not go with arrays on another."""
    typed = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x if typed or like.committed else jnp.asarray(np.asarray(x))


def _kind(x):
    return list(x.shape), str(x.dtype)


def _orbax():
    try:
        from orbax import checkpoint
    except ImportError as failure:
        raise ImportError("checkpoints need orbax: python -m pip install 'ewa-optax[checkpoint]'.") from failure
    return checkpoint


def settings_of(run: Any, source: Source, key: jax.Array) -> dict[str, Any]:
    """What tells the checkpoints of one run from those of another."""
    return dict(
        key=np.asarray(key if key.dtype == np.uint32 else jax.random.key_data(key)).tolist(),
        params=fingerprint(unstack_leaves(run.params)),
        opt_state=fingerprint(for_checkpoint(unstack_leaves(run.opt_state))),
        validation=run.best_params is not None,
        **source.identity(),
    )
