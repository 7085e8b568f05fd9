"""What torch does by the left column of docs/coming-from/torch.md, for those who have no torch.

`python -m tests.torch_paths`, where torch is installed, writes it to tests/fixtures/torch.json.
"""

import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "tests" / "fixtures" / "torch.json"
PAGE = ROOT / "docs" / "coming-from" / "torch.md"
NUMBERS = dict(lr=0.1, m=0.5, a=0.9, b1=0.9, b2=0.99, eps=1e-3, w=0.1, n=4, q=0.5, T=3)
START = np.array([1.0, -2.0, 0.5, 0.01])
GRADIENTS = np.sin(np.arange(24.0)).reshape(6, 4) * [1.0, 10.0, 0.1, 1e-3]


def rows() -> list[tuple[str, bool, str]]:
    """Code of torch, whether it is stepped every epoch, and code of here, of the table of the same numbers."""
    table = PAGE.read_text().split("## The same numbers")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(.+?)`(.*?) \| `(.+?)` \|$", table, re.MULTILINE)
    return [(torchs, "every epoch" in said, ours) for torchs, said, ours in found]


def path(code: str, by_epoch: bool) -> list:
    """The parameters after each step by an optimizer; or the rate of each step by a schedule."""
    import torch

    weights = torch.nn.Parameter(torch.tensor(START))
    words = vars(torch.optim) | vars(torch.optim.lr_scheduler) | NUMBERS | {"params": [weights]}
    optimizer = torch.optim.SGD([weights], NUMBERS["lr"])
    made = eval(code, words | {"optimizer": optimizer})
    found = []
    if isinstance(made, torch.optim.Optimizer):
        for gradient in GRADIENTS:
            weights.grad = torch.tensor(gradient)
            made.step()
            found.append(weights.tolist())
        return found
    every = NUMBERS["T"] if by_epoch else 1
    for _ in range(NUMBERS["n"] * 2 if by_epoch else NUMBERS["n"] + 1):
        found += [optimizer.param_groups[0]["lr"]] * every
        optimizer.step()
        made.step()
    return found


def main() -> None:
    """Writes them."""
    paths = {code: np.round(path(code, by_epoch), 9).tolist() for code, by_epoch, _ in rows()}
    lines = ",\n".join(f"{json.dumps(code)}: {json.dumps(found)}" for code, found in paths.items())
    STORED.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
