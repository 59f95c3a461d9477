"""SIGTERM waits for a checkpoint, and then does what it does."""

import signal
import threading

import pytest

from l2s_pydra.steps.ending import Ending


@pytest.fixture
def came():
    """Signals that came to a handler of the surroundings, which does not end the process."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


def test_it_waits_until_the_end(came):
    told = []
    with Ending(lambda: told.append(1)) as ending:
        assert not ending.pending
        signal.raise_signal(signal.SIGTERM)
        assert ending.pending
        assert (came, told) == ([], [1])
    assert came == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert came == [signal.SIGTERM] * 2


def test_it_is_delivered_when_asked_for(came):
    with Ending() as ending:
        signal.raise_signal(signal.SIGTERM)
        ending.deliver()
        assert came == [signal.SIGTERM]
        assert not ending.pending
        # Whoever handled it went on: the next one waits too.
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM]
    assert len(came) == 2


def test_a_handler_that_raises_ends_the_context(came):
    class EndedError(Exception):
        """What the handler of the surroundings ends with."""

    def end(*_):
        raise EndedError

    signal.signal(signal.SIGTERM, end)
    with Ending() as ending:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(EndedError):
            ending.deliver()
    assert signal.getsignal(signal.SIGTERM) is end


def test_nothing_comes(came):
    with Ending() as ending:
        assert not ending.pending
    assert not ending.pending
    assert came == []


def test_what_ignores_it_goes_on_ignoring_it():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Ending() as ending:
            signal.raise_signal(signal.SIGTERM)
            ending.deliver()
            assert not ending.pending
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_threads_change_nothing(came):
    handlers = []

    def work():
        with Ending():
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers.append(signal.getsignal(signal.SIGTERM))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers[0] is handlers[1]
