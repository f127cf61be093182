"""Exit code 0 where a URL of this container answers 200: the image has no curl."""

from __future__ import annotations

import sys
import urllib.request

TIMEOUT_S = 8.0


def main() -> None:
    """Ask the URL that is the argument."""
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=TIMEOUT_S) as answer:  # noqa: S310  # a URL of compose.yaml
            sys.exit(0 if answer.status == 200 else 1)
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
