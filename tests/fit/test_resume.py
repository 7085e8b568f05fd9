"""A killed run, resumed, ends where one that was not killed does, to the bit."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax import checkpoint

import ewa_optax

SAME_ORDER = pytest.mark.filterwarnings("ignore:data has the same order in each epoch")

SCRIPT = Path(__file__).parent / "run_to_resume.py"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 3)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32)}
KEY = jax.random.key(1)
OPTIMIZER = ewa_optax.adam(0.05)


def start(folder, result, loop="scan", devices=1, whole=()):
    return subprocess.Popen(
        [sys.executable, SCRIPT, str(folder), str(result), loop, str(devices), *whole],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, error = process.communicate()
    assert process.returncode == 0, error


@pytest.mark.parametrize("at", ["mid-run", "end"])
def test_ctrl_c_while_a_checkpoint_is_written_waits_for_it(at, tmp_path, monkeypatch, capfd):
    number, save, uncut = {"mid-run": 6, "end": 9}[at], checkpoint.CheckpointManager.save, []
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def saves(manager, step, **keywords):
        saved = save(manager, step, **keywords)
        if step == number and not uncut:
            signal.raise_signal(signal.SIGINT)
            uncut.append(step)
        return saved

    monkeypatch.setattr(checkpoint.CheckpointManager, "save", saves)
    try:
        run = fit(tmp_path, epochs=3, progress=True)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert uncut == [number]
    assert run.stopped == {"mid-run": "interrupted", "end": "finished"}[at]
    assert (tmp_path / str(number) / "_CHECKPOINT_METADATA").exists()
    assert "interrupted; ends when the checkpoint that is being written is whole\n" in (told := capfd.readouterr().err)
    assert "Traceback" not in told
    chex.assert_trees_all_equal(fit(tmp_path, epochs=3).params, fit(None, epochs=3).params)


def ends_with(path):
    with np.load(path) as kept:
        return list(kept.values())


@pytest.mark.parametrize(
    ("kills", "loop"),
    [(1, "scan"), pytest.param(20, "scan", marks=pytest.mark.slow), pytest.param(20, "python", marks=pytest.mark.slow)],
)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(kills, loop, tmp_path):
    rng, killed_at, results = np.random.default_rng(kills), [], []
    while len(killed_at) < kills:
        results.append(tmp_path / f"{len(results)}.npz")
        process = start(tmp_path / "run", results[-1], loop)
        process.stdout.readline()  # An epoch is over, or the run.
        time.sleep(rng.uniform(0.0, 0.8))
        if process.poll() is None:
            process.kill()
            process.communicate()
            killed_at.append(len(list((tmp_path / "run").glob("[0-9]*"))))
            results.pop()
        else:
            finish(process)
            shutil.rmtree(tmp_path / "run")
    assert sum(saved > 0 for saved in killed_at) > kills / 2
    results.append(tmp_path / "last.npz")
    finish(start(tmp_path / "run", results[-1], loop, whole=[tmp_path / "whole.npz"]))
    for result in results:
        for resumed, whole in zip(ends_with(result), ends_with(tmp_path / "whole.npz"), strict=True):
            np.testing.assert_array_equal(resumed, whole)


@pytest.mark.slow
def test_another_number_of_devices_at_the_resume_ends_within_rounding(tmp_path):
    finish(start("-", tmp_path / "whole.npz"))
    for devices in (1, 4):
        process = start(tmp_path / "run", tmp_path / "resumed.npz", devices=devices)
        if devices == 1:
            process.stdout.readline()  # An epoch is over,
            while process.poll() is None and not list((tmp_path / "run").glob("[0-9]*/commit_success.txt")):
                time.sleep(0.02)
            assert process.poll() is None
            process.kill()
            process.communicate()
        else:
            finish(process)
    for resumed, whole in zip(ends_with(tmp_path / "resumed.npz"), ends_with(tmp_path / "whole.npz"), strict=True):
        np.testing.assert_allclose(resumed, whole, rtol=2e-3, atol=2e-4)


def loss(w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def keyed_loss(w, batch, key):
    noise = jax.random.key_data(key)[-1].astype(np.float32) * 2.0**-32
    return loss(w, batch) + 0.01 * noise * w.sum(), {"mean": (batch["y"].mean(), None)}


def fit(folder, loss=loss, data=DATA, **keywords):
    sizes = {"batch_size": 64} if isinstance(data, dict) else {}
    defaults = dict(epochs=6, key=KEY, checkpoint=folder, checkpoint_every=2, progress=False, **sizes)
    return ewa_optax.fit(loss, OPTIMIZER, jnp.zeros(3), data, **{**defaults, **keywords})


def same(run, other):
    history, expected = (x.history._replace(seconds=None) for x in (run, other))
    chex.assert_trees_all_equal(run._replace(history=history), other._replace(history=expected))


def interrupt_at(epoch):
    def callback(run):
        if run.epoch == epoch:
            raise KeyboardInterrupt

    return callback


class Batches:
    """An iterable that begins anew each time."""

    def __iter__(self):
        return (jax.tree.map(lambda x, i=i: x[i : i + 40], DATA) for i in range(0, 150, 40))


SOURCES = {"arrays": dict(data=DATA), "python": dict(data=DATA, loop="python"), "iterable": dict(data=Batches())}
QUICK = {("arrays", None), ("arrays", 2), ("python", 2), ("iterable", 2)}


@pytest.mark.parametrize(
    ("source", "every"),
    [
        pytest.param(source, every, id=f"{name}-{every}", marks=() if (name, every) in QUICK else pytest.mark.slow)
        for name, source in SOURCES.items()
        for every in (None, 1, 2, 3, 100)
    ],
)
@SAME_ORDER
def test_an_interrupted_run_goes_on(tmp_path, every, source):
    keywords = dict(loss=keyed_loss, **source, has_aux=True, has_key=True, checkpoint_every=every)
    whole = fit(None, **keywords)
    first = fit(tmp_path / "run", callbacks=[interrupt_at(2)], **keywords)
    assert (first.stopped, first.epoch) == ("interrupted", 1)
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    same(fit(tmp_path / "run", **keywords), whole)
    if every == 2:  # From the checkpoint before, in the midst of an epoch.
        shutil.rmtree(tmp_path / "earlier" / "6")
        same(fit(tmp_path / "earlier", **keywords), whole)


def test_a_run_that_is_over_is_given_back_and_one_of_more_epochs_goes_on(tmp_path):
    keywords = dict(validation=DATA, epochs=3)
    first = fit(tmp_path / "run", **keywords)
    again = fit(tmp_path / "run", **keywords)
    same(again, first)
    longer = fit(tmp_path / "run", **{**keywords, "epochs": 6})
    same(longer, fit(None, **{**keywords, "epochs": 6}))


def test_empty_arrays_are_kept_too(tmp_path):
    def with_nothing(params, batch):
        return loss(params["w"], batch) + params["nothing"].sum(), {
            "empty": jnp.zeros((2, 0)),
            "mean": batch["y"].mean(),
        }

    def fit_both(folder, epochs):
        return ewa_optax.fit(
            with_nothing, OPTIMIZER, {"w": jnp.zeros(3), "nothing": jnp.zeros((0, 4))}, DATA,
            batch_size=64, epochs=epochs, key=KEY, has_aux=True, checkpoint=folder, progress=False,
        )  # fmt: skip

    fit_both(tmp_path / "run", 2)
    same(fit_both(tmp_path / "run", 4), fit_both(None, 4))
    same(fit_both(tmp_path / "run", 4), fit_both(None, 4))


def test_a_folder_in_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fit("~/run", epochs=1)
    assert (tmp_path / "run" / "3").is_dir()


@pytest.mark.parametrize("every", [None, 3, 9, 10])
def test_a_run_that_is_over_is_not_closed_again(tmp_path, every):
    calls = []
    for _ in range(2):
        run = fit(tmp_path / "run", epochs=3, checkpoint_every=every, callbacks=[lambda run: calls.append(run.epoch)])
    assert calls == [1, 2, 3]
    assert run.history.steps.tolist() == [3, 3, 3]


def test_a_resume_is_told(tmp_path, capsys):
    fit(tmp_path / "run", epochs=1)
    fit(tmp_path / "run", epochs=2, progress=True)
    assert f"resumes after 1 epochs and 0 steps, from {tmp_path}" in capsys.readouterr().err


def test_early_stopping_goes_on_counting(tmp_path):
    shift = {"x": X, "y": DATA["y"] + RNG.standard_normal(150).astype(np.float32) * 3}
    keywords = dict(data=shift, validation=DATA, patience=3, epochs=300, checkpoint_every=50)
    whole = fit(None, **keywords)
    assert whole.stopped == "early"
    fit(tmp_path / "run", **{**keywords, "epochs": whole.epoch - 1})
    same(fit(tmp_path / "run", **keywords), whole)
    same(fit(tmp_path / "run", **keywords), whole)


def test_a_torn_checkpoint_is_told_and_the_one_before_is_intact(tmp_path):
    folder = tmp_path / "run"
    whole = fit(folder, epochs=4)
    earlier, latest = sorted(int(path.name) for path in folder.glob("[0-9]*"))
    for path in [*(folder / str(latest)).rglob("*")]:
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        ValueError, match=f"checkpoint {latest} in .* torn.*move the folder '{latest}'.*checkpoint {earlier}"
    ):
        fit(folder, epochs=4)
    shutil.move(folder / str(latest), tmp_path / "torn")
    same(fit(folder, epochs=4), whole)


def test_a_foreign_checkpoint_is_told(tmp_path):
    from orbax import checkpoint

    with checkpoint.CheckpointManager(tmp_path / "run") as manager:
        manager.save(3, args=checkpoint.args.StandardSave({"w": jnp.ones(3)}))
    with pytest.raises(ValueError, match=r"checkpoint 3 in .* is none that fit wrote.*name another folder"):
        fit(tmp_path / "run")
    assert (tmp_path / "run" / "3").is_dir()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (dict(key=jax.random.key(2)), r"of another run \(key: \[0, 1\] there, \[0, 2\] here\); give this run a folder"),
        (dict(batch_size=32), "batch_size: 64 there, 32 here"),
        (dict(data={"x": X[:100], "y": DATA["y"][:100]}), "num_examples: 150 there, 100 here"),
        (dict(order="bijection"), "order: 'permutation' there, 'bijection' here"),
        (dict(validation=DATA), "validation: False there, True here"),
        (dict(data={"x": X + 1, "y": DATA["y"]}), "data: '600 numbers in 2 arrays of float32"),
    ],
)
def test_the_checkpoint_of_another_run_is_told(tmp_path, keywords, message):
    fit(tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", epochs=1, **keywords)


def test_the_checkpoint_of_another_model_is_told(tmp_path):
    fit(tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match=r"of another run .*params: '3 numbers in 1 arrays of float32"):
        ewa_optax.fit(
            lambda w, batch: loss(w["w"], batch), OPTIMIZER, {"w": jnp.zeros(3)}, DATA,
            batch_size=64, epochs=1, key=KEY, checkpoint=tmp_path / "run", progress=False,
        )  # fmt: skip


# What faults on purpose showed to be tested nowhere else.


@SAME_ORDER
def test_an_iterable_that_is_over_is_not_closed_again(tmp_path):
    calls = []
    for _ in range(2):
        fit(
            tmp_path / "run", data=Batches(), epochs=3, checkpoint_every=4,
            callbacks=[lambda run: calls.append(run.epoch)],
        )  # fmt: skip
    assert calls == [1, 2, 3]


def test_a_state_may_stay_infinite():
    plateau = optax.chain(ewa_optax.adam(0.1), optax.contrib.reduce_on_plateau(accumulation_size=1000))
    run = ewa_optax.fit(
        loss, plateau, jnp.zeros(3), DATA, batch_size=64, epochs=2, key=KEY,
        progress=False,
    )  # fmt: skip
    assert run.stopped == "finished"


def test_checkpoints_are_of_every_so_many_steps(tmp_path):
    fit(tmp_path / "run", epochs=6)
    assert sorted(int(path.name) for path in (tmp_path / "run").glob("[0-9]*")) == [16, 18]


@SAME_ORDER
def test_an_iterable_that_is_interrupted_in_mid_epoch_goes_on(tmp_path):
    class Interrupted:
        def __init__(self, at):
            self.left = at

        def __iter__(self):
            for batch in Batches():
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt
                yield batch

    def keyed(w, batch, key):
        return loss(w, batch) + jax.random.normal(key) * w.sum()

    whole = fit(None, keyed, Batches(), has_key=True)
    first = fit(tmp_path / "run", keyed, Interrupted(8), has_key=True)
    assert (first.stopped, first.epoch) == ("interrupted", 1)
    assert first.step > 0
    same(fit(tmp_path / "run", keyed, Batches(), has_key=True), whole)
