"""The `diffaug` command: one module a command, each with `add_parser(commands)` and `run(args)`."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Sequence

from .. import __version__
from . import app, augment, convert, demo, evaluate, networks, purify, sample, show

COMMANDS = (demo, show, augment, purify, evaluate, sample, app, networks, convert)
#: Errors that a user causes. They end as one line.
USER_ERRORS = (OSError, ValueError, TypeError, ImportError)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command. A command's ``run`` is in ``args.run``."""
    parser = argparse.ArgumentParser(prog="diffaug", description="DiffAug: diffuse-and-denoise augmentation.")
    parser.add_argument("--version", action="version", version=f"diffaug {__version__}")
    traceback_help = "show the full traceback of an error"
    parser.add_argument("--traceback", action="store_true", help=traceback_help)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command in COMMANDS:
        added = command.add_parser(commands)
        added.set_defaults(run=command.run)
        # Its own default would overwrite a flag before the command.
        added.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=traceback_help)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv``, or with the process's own arguments.

    Errors that a user causes are one line on standard error. Other errors show their traceback, and so does every
    error with ``--traceback``. The exit code is 0 if all is done, 1 if files were skipped, 2 if the command failed, and
    130 if it was stopped from the keyboard. `diffaug app` ends with 0 then.
    """
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"diffaug: warning: {message}", file=sys.stderr)
        try:
            return args.run(args)
        except KeyboardInterrupt:
            resumes = "; the same command resumes where it was" if args.command in ("augment", "evaluate") else ""
            print(f"diffaug: stopped{resumes}", file=sys.stderr)
            return 130
        except Exception as error:
            if args.traceback or not isinstance(error, USER_ERRORS):
                traceback.print_exc()
            else:
                print(f"diffaug: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
