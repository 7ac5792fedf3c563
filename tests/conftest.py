"""What all tests share."""

import logging


def pytest_sessionfinish() -> None:
    # NNI's experiments log once more when Python exits, to streams that pytest has closed by then; logging would print
    # a traceback for each such line.
    logging.raiseExceptions = False
