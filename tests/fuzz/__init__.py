"""Fuzzing: mutated files of every kind that Siam reads. `make fuzz MINUTES=30`, or `python -m tests.fuzz`.

Each file in subjects/ is a subject: what to mutate, how, and what must hold. A mutated file is either read,
or refused with a SiamError or a BrokenImage. Anything else is a find: another exception, a wrong pixel, a
crash of the process, a hang, or a peak of memory. Finds are kept, one per kind; those that have
been fixed are in corpus/, and are a fast test.
"""
