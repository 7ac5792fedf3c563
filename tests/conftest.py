"""What all tests share."""

import logging
import signal


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored, which the programs under test would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    # NNI's experiments log once more when Python exits, to streams that pytest has closed by then; logging would print
    # a traceback for each such line.
    logging.raiseExceptions = False
