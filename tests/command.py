"""The command in a process of its own, as a user starts it but for the seconds that imports take."""

import multiprocessing
import os
import signal
import sys
import time

import torch

from siam.cli import command as cli


def run(args, out, err):
    """What the process does, on one thread. out, err: files that take its output."""
    os.setpgrp()  # so that it can be killed with all the processes it starts
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side: more threads would wait for each other
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server of forks may ignore it
    sys.exit(cli.main(args))


class Command:
    """Forked from a server that has imported everything: not from this process, whose threads do not outlive
    a fork."""

    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(
        ["siam.train.pretrain", "siam.report.page", "siam.protocols.evaluate", "siam.cli.arguments", __name__]
    )

    def __init__(self, *args):
        self.outputs = [os.memfd_create("stdout"), os.memfd_create("stderr")]
        paths = [f"/proc/{os.getpid()}/fd/{output}" for output in self.outputs]
        self.process = self.start.Process(target=run, args=([str(arg) for arg in args], *paths))
        self.process.start()

    @property
    def stdout(self):
        return os.pread(self.outputs[0], 10**7, 0).decode()

    @property
    def stderr(self):
        return os.pread(self.outputs[1], 10**7, 0).decode()

    def said(self):
        """On stderr, without the breaks between lines."""
        return " ".join(self.stderr.split())

    def ended(self, seconds=None):
        """Whether it has ended by then."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def wait(self):
        """Its exit status; negative for a signal."""
        try:
            self.process.join()
        except BaseException:  # pytest's time limit, or Ctrl-C
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        return self.process.exitcode

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill_after(self, seconds):
        """Returns whether it was still alive then."""
        if self.ended(seconds):
            return False
        self.signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def kill_when(self, holds):
        """Kill it, and the processes it started, as soon as `holds()`."""
        deadline = time.monotonic() + 200
        while not holds():
            assert not self.ended(0.005), self.stderr
            assert time.monotonic() < deadline, self.stderr
        os.killpg(self.process.pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL, self.stderr
