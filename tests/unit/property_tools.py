"""Settings and strategies of the property tests: what a user's input may hold, and what its outcome may be.

`MUGV_EXAMPLES=5000 pytest tests/unit/test_properties_*.py` looks further than the suite does.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from mugv.errors import UserError

# Hypothesis keeps tables of Unicode there, and nothing may be written into the repository.
set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "mugv-hypothesis"))

EXAMPLES = int(os.environ.get("MUGV_EXAMPLES", "0"))


def few(count: int) -> settings:
    """The same `count` examples every time; new ones where MUGV_EXAMPLES asks for more."""
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def outcome(work: Callable[[], Any]) -> Any:
    """What `work` returns, or None where it refuses its input in one line. Any other exception passes."""
    try:
        return work()
    except UserError as error:
        line = str(error)
    assert line.strip()
    assert len(line.splitlines()) == 1
    return None


numbers = st.one_of(
    st.integers(),
    st.integers(-3, 70),
    st.floats(),
    st.sampled_from([2**31, 2**53 + 1, 2**64, 10**400, -(10**30), 1e308, 5e-324, 0.0, -0.0]),
)
words = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "off", "yes", "null", "32x32", "1e-4", "0x10", "a/b", "..", "s3://", "\0", "\ud800"])
)
leaves = st.one_of(st.none(), st.booleans(), numbers, words)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(words, st.integers()), inner, max_size=3))


values = st.recursive(leaves, _containers, max_leaves=6)
BREAKING = [b"\n", b"\xff", b"\0", b"[", b"{", b"&a ", b"*a", b": ", b"\xef\xbb\xbf"]


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with a few slices removed, doubled or replaced."""
    data = good
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        new = draw(
            st.one_of(
                st.binary(max_size=6),
                st.just(data[at:end] * 2),
                st.sampled_from(BREAKING),
            )
        )
        data = data[:at] + new + data[end:]
    return data
