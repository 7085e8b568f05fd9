"""The command line: `python -m ewa_optax` compares optimizers on handwritten digits."""

import os
import signal
import sys
from collections.abc import Sequence

from ewa_optax import __version__
from ewa_optax._compare.command_line import Parser, add_options, compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # For the time of imports.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = Parser(
        prog="python -m ewa_optax",
        description="Optimizers for JAX over exponentially weighted averages.",
        epilog="compare is the default command; python -m ewa_optax compare --help lists its options",
    )
    parser.add_argument("--version", action="version", version=f"ewa_optax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    task = "train one small network on handwritten digits with each optimizer, print a table and save a picture"
    compare_parser = commands.add_parser("compare", help=task, description=f"{task.capitalize()}.")
    add_options(compare_parser)
    if not arguments or arguments[0] not in ("compare", "-h", "--help", "--version"):
        arguments.insert(0, "compare")
    options = parser.parse_args(arguments)
    try:
        return compare(options, compare_parser)
    except ModuleNotFoundError as missing:
        remedy = "the demo extra brings it: python -m pip install 'ewa-optax[demo]', or -e '.[demo]' in a checkout"
        compare_parser.exit(1, f"{compare_parser.prog}: {missing.name} is missing; {remedy}\n")
    except BrokenPipeError:
        # Whoever read the output, such as head, has had enough. Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as failure:
        compare_parser.exit(1, f"{compare_parser.prog}: {failure}\n")
    except KeyboardInterrupt:
        compare_parser.exit(130, "\ninterrupted\n")


if __name__ == "__main__":
    sys.exit(main())
