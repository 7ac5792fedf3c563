"""``python -m idarts_nni.patient_nnictl create ...``: ``nnictl`` with more patience.

``nnictl`` gives NNI's manager three seconds to answer, and then ends it. On a busy machine Node needs longer than that
to load the manager.
"""

from __future__ import annotations

from nni.experiment import launcher
from nni.tools.nnictl.nnictl import parse_args

SECONDS = 60


def main() -> None:
    """Run ``nnictl``; it asks the manager once a second, and this often."""
    launcher._check_rest_server.__defaults__ = (SECONDS, None)
    parse_args()


if __name__ == "__main__":
    main()
