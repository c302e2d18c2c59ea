"""torchrun as on a node of a cluster, without the seconds that imports take: all its processes are forks.

The agent, its store, the environment, restarts and signals are torchrun's own, but the processes that train
are forked from the agent's. test_distributed.py runs torchrun as a command.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.launcher.api import elastic_launch

from siam.cli import command as cli
from tests.command import Command
from tests.data.test_workers import alive


def train(args):
    """Run the command in a process that trains."""
    status = cli.main(args)
    if status:
        sys.exit(status)


def agent(args):
    """Run torchrun, with functions in place of `python -m siam`."""

    def launch_forks(config, entrypoint):
        config.start_method = "fork"
        return lambda *words: elastic_launch(config, train)(list(words[words.index("siam") + 1 :]))

    run.elastic_launch = launch_forks
    run.main(args)
    return 0


class Torchrun(Command):
    """The agent's process, which is given the arguments of torchrun."""

    main = staticmethod(agent)

    def ranks(self):
        """Return the ids of the live processes that train, in the order of their ranks on this node.

        One that has ended stays a child of an agent that waits in its store.
        """
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = []
        with contextlib.suppress(OSError):
            found = sorted(map(int, children.read_text().split()))
        return [pid for pid in found if alive(pid)]

    def kill(self):
        """Kill all that is left of the agent and of the processes that it has started."""
        for pid in (*self.ranks(), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()
