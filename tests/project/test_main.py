"""The command line, as a person uses it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from ewa_optax import _optimizers, plots
from ewa_optax.__main__ import main
from ewa_optax._compare import digits
from ewa_optax.plots import _axes

DEFAULT = ["gradient_descent", "momentum", "rmsprop", "adam"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--optimizers", "adam"], ["adam"]),  # And below, of two.
        pytest.param([], DEFAULT, marks=pytest.mark.slow, id="default"),
    ],
)
def test_the_main_job(options, names, tmp_path, capsys):
    picture = tmp_path / "race.png"
    assert main(["--epochs", "3", "--out", str(picture), *options]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    for name in names:
        rate, cost, accuracy, seconds = rows[name]
        assert float(rate) == digits.LEARNING_RATES[name]
        assert float(cost) < 0.6
        assert float(accuracy.rstrip("%")) > 85
        assert float(seconds) > 0
    assert f"picture: {picture}" in out
    assert err == ""
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_options(tmp_path, monkeypatch, capsys):
    """In a narrow terminal, which cuts no numbers."""
    monkeypatch.setenv("COLUMNS", "50")
    picture = tmp_path / "a.svg"
    arguments = ["compare", "--optimizers", "lion", "signum", "lion", "--epochs", "1", "--batch-size", "1437"]
    assert main([*arguments, "--learning-rate", "0.5", "--seed", "3", "--out", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.count("lion") == 1
    assert "rmsprop" not in out
    assert out.count(" 0.5 ") == 2
    assert "…" not in out
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: must be a whole number from 1 to 2147483647, got '0'"),
        (["--epochs", "many"], "--epochs: must be a whole number"),
        (["--batch-size", "0"], "--batch-size: must be a whole number from 1"),
        (["--batch-size", "5000"], "--batch-size: must be at most the number of training examples, 1437, got 5000"),
        (["--learning-rate", "-1"], "--learning-rate: must be a finite number more than 0, got '-1'"),
        (["--learning-rate", "nan"], "--learning-rate: must be a finite number"),
        (["--seed", "-1"], "--seed: must be a whole number from 0"),
        (["--optimizers", "sgd"], "--optimizers: invalid choice: 'sgd' (choose from"),
        (["--optimizers"], "--optimizers: expected at least one argument"),
        (["--out", "cost.txt"], "--out: must end in one of .png"),
        (["--out", "no/such/folder/cost.png"], "--out: there is no folder 'no/such/folder'; make it first"),
        (["--out", "x" * 300 + ".png"], "can't write to"),
        (["--out", "/dev/full/cost.png"], "there is no folder '/dev/full'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate; --help lists the options"),
    ],
)
def test_wrong_values_are_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


# Of mini-batches that are all of one size, an epoch is half a program.
QUICKLY = ["--epochs", "1", "--batch-size", "1437", "--learning-rate", "1e30"]


def test_as_a_process_whose_reader_leaves_early(tmp_path):
    """No warning, no complaint, and the picture, though all diverges."""
    command = [sys.executable, "-W", "error", "-m", "ewa_optax", *QUICKLY, "--optimizers", "gradient_descent"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        first = process.stdout.readline()
        process.stdout.close()
        assert "1437 handwritten digits" in first
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1)
    assert (tmp_path / "ewa_optax_compare.png").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_ctrl_c_while_it_is_imported_ends_without_a_word():
    command = [sys.executable, "-W", "error", "-m", "ewa_optax", "--help"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    ) as process:  # fmt: skip
        line = next(line for line in process.stderr if "jax" in line)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert all("import time" in line for line in [line, *rest.splitlines()])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_found_before_training(tmp_path, monkeypatch, capsys):
    tmp_path.chmod(0o500)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "--out: can't write to 'ewa_optax_compare.png' (Permission denied)" in capsys.readouterr().err


def test_a_picture_that_is_there_stays_until_it_is_replaced(tmp_path):
    picture = tmp_path / "cost.png"
    picture.write_bytes(b"mine")
    with pytest.raises(SystemExit):
        main(["--out", str(picture), "--batch-size", "5000"])
    assert picture.read_bytes() == b"mine"


def test_a_picture_that_can_not_be_saved_is_one_line_and_keeps_the_table(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "cost.png")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(SystemExit) as stop:
        main([*QUICKLY, "--optimizers", "momentum", "--out", str(tmp_path / "cost.png")])
    out, err = capsys.readouterr()
    assert stop.value.code == 1
    assert "momentum" in out
    assert "diverged" in out
    assert err == "python -m ewa_optax compare: [Errno 28] No space left on device: 'cost.png'\n"


def test_no_histories_are_an_empty_picture():
    assert plots.epoch_costs({}).get_legend() is None


def test_help_leads_to_the_options(capsys):
    for arguments, words in (
        (["--help"], "compare --help"),
        (["compare", "--help"], f"(default: {' '.join(DEFAULT)})"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert words in " ".join(capsys.readouterr().out.split())


def test_one_mini_batch_shows_as_a_point():
    ax = plots.minibatch_costs({"a": [2.0]})
    assert ax.get_lines()[1].get_marker() == "o"


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path / "a.png")])
    err = capsys.readouterr().err
    assert stop.value.code == 1
    assert "sklearn is missing; the demo extra brings it: python -m pip install" in err
    assert err.count("\n") == 1


def test_runs_start_alike_and_repeat_to_the_bit():
    train_set, test_set = digits.load_digits(seed=1)
    assert train_set.pixels.shape == (1437, 64)
    assert test_set.digit.shape == (360,)

    def runs(name):
        return list(digits.train(name, 0.01, train_set, test_set, epochs=2, batch_size=1437 // 3, seed=1))

    first, again, other = runs("momentum")[-1], runs("momentum")[-1], runs("gradient_descent")[-1]
    np.testing.assert_array_equal(first.minibatch_costs, again.minibatch_costs)
    assert first.minibatch_costs.shape == (2 * 3,)
    assert first.epoch_costs.shape == (3,)
    assert first.epoch_costs[0] == other.epoch_costs[0]
    assert first.minibatch_costs[0] == other.minibatch_costs[0]


# Pictures, by what was drawn.


def test_the_picture_of_mini_batches_shows_costs_and_their_average():
    costs = np.array([4.0, 2.0, 1.0, 2.0])
    ax = plots.minibatch_costs({"a": costs, "b": costs * 2}, decay=0.5)
    raw, average, *_ = ax.get_lines()
    np.testing.assert_array_equal(raw.get_ydata(), costs)
    weights = 0.5 ** np.arange(4)
    expected = [weights[: t + 1] @ costs[t::-1] / weights[: t + 1].sum() for t in range(4)]
    np.testing.assert_allclose(average.get_ydata(), expected, rtol=1e-6)
    np.testing.assert_array_equal(average.get_xdata(), [1, 2, 3, 4])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_yscale() == "log"


def test_every_optimizer_has_a_line_of_its_own():
    styles = [style for *_, style in _axes.styled({name: [2.0, 1.0] for name in digits.LEARNING_RATES})]
    assert (
        len({(style["color"], str(style["linestyle"])) for style in styles})
        == len(styles)
        == len(_optimizers.OPTIMIZERS)
    )
    assert set(digits.LEARNING_RATES) == set(_optimizers.OPTIMIZERS)


def test_the_picture_of_epochs_draws_on_the_axes_given():
    ax = plots.epoch_costs({"a": [3.0, 2.0, 1.0]})
    assert plots.epoch_costs({"b": [1.0, 0.5]}, ax=ax) is ax
    first, second = ax.get_lines()
    np.testing.assert_array_equal(first.get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(second.get_ydata(), [1.0, 0.5])


@pytest.mark.parametrize("draw", [plots.minibatch_costs, plots.epoch_costs])
def test_costs_of_the_wrong_shape(draw):
    with pytest.raises(ValueError, match=r"costs of 'a' must have one axis, got shape \(2, 2\); put epochs end to end"):
        draw({"a": np.ones((2, 2))})


def test_colours_and_dashes_tell_lines_apart():
    ax = plots.epoch_costs({str(i): [1.0, 0.5] for i in range(7)})
    assert len({line.get_color() for line in ax.get_lines()}) == 7
    assert len({str(line.get_linestyle()) + str(line._unscaled_dash_pattern) for line in ax.get_lines()}) == 7
