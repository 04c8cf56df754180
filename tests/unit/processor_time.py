"""Bounds on speed are in seconds of the processor: on a busy machine the clock goes on while a test waits for its turn."""

import os


def children_seconds() -> float:
    """What all processes that this one has started and seen end have computed."""
    times = os.times()
    return times.children_user + times.children_system
