"""Torture: faults drawn at random, over every verb that works for long. `make torture RUNS=100`.

Each run starts a verb on a tiny set, disturbs it at a random moment, and must end in one of three ways:
finished, with the result of an undisturbed run; stopped, and then finished by the same command; or one
sentence with status 2, and then finished by the same command once the fault is gone.
"""
