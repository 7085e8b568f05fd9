"""What every optimizer has besides its expression; a new one is told what it lacks, by name."""

from pathlib import Path

import oracles
import pytest
from cases import CASES
from test_cost import PEERS, WITHOUT_A_PEER

import ewa_optax
from benchmarks import rates
from ewa_optax._compare import digits
from ewa_optax._optimizers import OPTIMIZERS

ROOT = Path(__file__).parents[2]
CHANGELOG, TABLE = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "docs/guide/optimizers.md"))


def missing(name):
    """What an optimizer of that name lacks, in words."""
    has = {
        "a name in ewa_optax.__all__": name in ewa_optax.__all__,
        "an oracle in tests/oracles.py": hasattr(oracles, name),
        "a case in tests/cases.py": name in {case.name for case in CASES},
        "a row of cost, in PEERS or WITHOUT_A_PEER": (name in PEERS) != (name in WITHOUT_A_PEER),
        "a rate in LEARNING_RATES (python -m benchmarks.rates)": name in digits.LEARNING_RATES,
        "a line in CHANGELOG.md": f"`{name}`" in CHANGELOG,
        "a row in the table of docs/guide/optimizers.md (python -m benchmarks.pages)": f"\n| `{name}` |" in TABLE,
    }
    return [what for what, there in has.items() if not there]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_all_that_belongs_to_it(name):
    assert missing(name) == []


def test_what_is_missing_is_named():
    assert len(missing("adamw2")) == 7


def test_nothing_belongs_to_an_optimizer_that_is_not_there():
    assert {*PEERS, *WITHOUT_A_PEER} == OPTIMIZERS.keys() == digits.LEARNING_RATES.keys()


def test_the_best_of_some_rates_is_found(capsys):
    assert rates.best("momentum", [1e-4, 3.0], seeds=(0,), epochs=1) == 3.0
    with pytest.raises(SystemExit):
        rates.main(["sgd"])
    assert "there is no optimizer 'sgd'" in capsys.readouterr().err
