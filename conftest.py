"""One thread for all tests and what they start; names for doctests that import nothing."""

import os
import signal
from importlib.util import find_spec

# Two threads wait for each other: beside a busy core a test takes ten times as long. One thread
# also adds in one order.
os.environ["OMP_NUM_THREADS"] = "1"

import jaxtyping
import pytest
from jaxtyping import install_import_hook

# Shapes and types are checked at every call of the core, in the tests alone. torch reads the
# signatures of its custom operators itself, so those are left as they are.
CHECKED = ["losses", "ops.head", "ops.live", "ops.logprob_entropy", "ops.reference"]
if find_spec("beartype"):
    install_import_hook([f"erclip.{name}" for name in CHECKED], "shapes.check")

import erclip  # noqa: E402

# A shell's background job ignores Ctrl-C, `nohup` a lost terminal: what the tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def _names():
    import torch  # by the processes that run tests alone: it takes seconds

    return {"torch": torch, **{name: getattr(erclip, name) for name in erclip.__all__}}


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace, _names):
    doctest_namespace.update(_names)


@pytest.fixture
def unchecked():
    """As users run it: our sentences, not the tests' type errors, and a third of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
