"""The `siam` command: find the verbs in siam/verbs/, run one, and print its result.

A verb is a module with
- a docstring, whose first line `siam --help` shows;
- an options dataclass, whose docstrings become the verb's --help;
- `main(options: TheDataclass)`, which returns the result as a dict or dataclass;
- optionally `keep(options, result)`, which saves the result before it is printed;
  `render(result)`, which returns strings and rich renderables to print without --json (default: a
  table of the result's fields); `after(options, result)`, called after the result is printed; and `HINTS`, a
  dict of flag -> explanation for flags that the verb deliberately does not have.

`siam --help` imports neither verbs nor torch nor tyro, so that it is fast.
"""

import ast
import contextlib
import errno
import inspect
import io
import os
import select
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from siam import plugins
from siam.errors import SettingsError, SiamError, did_you_mean
from siam.system.names import shown
from siam.system.signals import Stopped, raising_on_signals

HELP = """usage: siam VERB ...

Self-supervised learning of image representations with Siamese networks.

{verbs}

Run siam VERB --help for the settings of a verb. Examples:
  siam pretrain                          the built-in demo dataset, in minutes on a laptop
  siam pretrain photos/ --out runs/mine  a folder of your own images
"""
_PACKAGE = "siam.verbs"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of a full, or read-only, file system, which the user can fix."""

_NO_THREAD = "can't start new thread"
_TOO_MANY = (
    "the system starts no more threads or processes: raise their limit (ulimit -u), or use --loader.workers 0"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status.

    0: success; 2: user error; 75: the run stopped after saving a checkpoint and can be
    resumed; 129, 130, 143: stopped by SIGHUP, SIGINT or SIGTERM; 141: broken pipe.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # closed, as by >&-; the next file that is opened would get its number
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # class names may be beyond the terminal's encoding
    try:
        try:
            with raising_on_signals():
                _run(args)
        finally:
            sys.stdout.flush()  # here, where BrokenPipeError is handled
    except SiamError as error:
        if not error.on_all_ranks or is_rank_zero():
            print(f"siam: {shown(error)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as stop:
        if is_rank_zero():
            print(f"siam: {stop if isinstance(stop, Stopped) else 'interrupted'}", file=sys.stderr)
        return stop.exit_status if isinstance(stop, Stopped) else 130
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        return 141  # the status of a process killed by SIGPIPE
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        print(f"siam: {_TOO_MANY}", file=sys.stderr)
        return SiamError.exit_status
    except OSError as error:
        if error.errno == errno.EAGAIN:  # from fork
            print(f"siam: {_TOO_MANY}", file=sys.stderr)
            return SiamError.exit_status
        if error.errno not in _NO_ROOM:
            raise
        _discard_output()
        place = error.filename or "the output"
        print(f"siam: cannot write to {place}: {error.strerror}; free some space", file=sys.stderr)
        return SiamError.exit_status
    return 0


def is_rank_zero() -> bool:
    """Return True on rank 0, the only rank that prints, without importing torch."""
    return int(os.environ.get("RANK", "0")) == 0


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(_help(), end="")
        return
    if args[0] == "--version":
        from siam import __version__

        print(f"siam {__version__}")
        return
    verbs = find_verbs()
    verb = next((name for name in (" ".join(args[:2]), args[0]) if name in verbs), None)
    if verb is None:
        known = ", ".join(verbs)
        raise SettingsError(f"unknown verb '{args[0]}'{did_you_mean(args[0], verbs)} (verbs: {known})")
    module = plugins.load(_PACKAGE, verbs[verb])

    from siam.cli.arguments import parse
    from siam.cli.output import show

    hints = getattr(module, "HINTS", {})
    options, as_json = parse(_options_of(module), args[len(verb.split()) :], f"siam {verb}", hints)
    result = module.main(options)
    if is_rank_zero():
        try:
            if hasattr(module, "keep"):
                module.keep(options, result)
        finally:  # a result that cannot be saved is still printed
            show(result, as_json, getattr(module, "render", None))
        if hasattr(module, "after"):
            module.after(options, result)


def find_verbs() -> dict[str, str]:
    """Map verbs to module names, such as "reproduce transfer": "reproduce_transfer"."""
    return {name.rstrip("_").replace("_", " "): name for name in plugins.names(_PACKAGE)}


def _help() -> str:
    verbs = {verb: _summary(module) for verb, module in find_verbs().items()}
    width = max(map(len, verbs))
    return HELP.format(verbs="\n".join(f"  {verb:{width}}  {line}" for verb, line in verbs.items()))


def _summary(name: str) -> str:
    """Read the first line of a verb's module docstring without importing the module."""
    spec = find_spec(f"{_PACKAGE}.{name}")
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _options_of(module: ModuleType) -> type[Any]:
    """Return a verb's options dataclass, from the signature of its `main`."""
    (options,) = inspect.signature(module.main).parameters.values()
    kind: type[Any] = options.annotation
    return kind


def _reader_has_left() -> bool:
    """Return True, and discard all further output, if the pipe on stdout is closed."""
    output = sys.stdout.fileno()
    if hasattr(select, "poll"):  # not on Windows
        poll = select.poll()
        poll.register(output, 0)
        if not poll.poll(0):
            return False
    _discard_output()
    return True


def _discard_output() -> None:
    """Discard what is left to write to stdout, which cannot be written."""
    with contextlib.suppress(OSError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
