"""The command in its own process, as a user starts it, but without the seconds that imports take."""

import multiprocessing
import os
import signal
import sys
import time

import torch
from markupsafe import Markup

from siam.cli import command as cli


def leave_out_charts(set_attribute=setattr):
    """Leave the charts out of reports: matplotlib takes four fifths of the time of a tiny run."""
    from siam.report import transfer
    from siam.report.sections import curves

    for module in (curves, transfer):
        set_attribute(module, "panel", lambda *args, **named: None)
        set_attribute(module, "inline_svg", lambda figure, name: Markup("<svg></svg>"))


def run(main, args, out, err, before):
    """Run the command in the new process, on one thread.

    main: called with the arguments; returns the exit status. out, err: files that receive its output.
    before: a function to call first, or None.
    """
    os.setpgrp()  # so that it can be killed with all the processes it starts
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side: more threads would wait for each other
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server of forks may ignore it
    leave_out_charts()
    if before is not None:
        before()
    sys.exit(main(args))


class Command:
    """A process forked from a server that has imported everything.

    It is not forked from this process, whose threads would not survive the fork.
    """

    main = staticmethod(cli.main)
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(
        ["siam.api", "siam.train.pretrain", "siam.verbs.pretrain", "siam.data.sources.folder",
         "siam.report.page", "siam.report.sections.curves", "siam.report.transfer", "siam.protocols.evaluate",
         "siam.cli.arguments", "pyarrow.parquet", "torch.utils.tensorboard", "tyro._backends",
         __name__, "tests.frozen"]
    )  # fmt: skip

    def __init__(self, *args, before=None):
        self.outputs = [os.memfd_create("stdout"), os.memfd_create("stderr")]
        paths = [f"/proc/{os.getpid()}/fd/{output}" for output in self.outputs]
        words = [str(arg) for arg in args]
        self.process = self.start.Process(target=run, args=(self.main, words, *paths, before))
        self.process.start()

    @property
    def stdout(self):
        return os.pread(self.outputs[0], 10**7, 0).decode()

    @property
    def stderr(self):
        return os.pread(self.outputs[1], 10**7, 0).decode()

    def said(self):
        """Return stderr without line breaks."""
        return " ".join(self.stderr.split())

    def ended(self, seconds=None):
        """Return True if it ends within `seconds`; wait for its end if None."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def wait(self):
        """Wait for its end. Return its exit status; negative for a signal."""
        try:
            self.process.join()
        except BaseException:  # pytest's time limit, or Ctrl-C
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        return self.process.exitcode

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill_after(self, seconds):
        """Kill it after some seconds. Return True if it was still running."""
        if self.ended(seconds):
            return False
        self.signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def kill_when(self, holds):
        """Kill it and the processes it started as soon as `holds()` is true."""
        deadline = time.monotonic() + 200
        while not holds():
            assert not self.ended(0.005), self.stderr
            assert time.monotonic() < deadline, self.stderr
        os.killpg(self.process.pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL, self.stderr
