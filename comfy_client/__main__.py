"""``python -m comfy_client``: the same as the command ``comfy-client``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or print how to install its extra.

    The signal handlers stay installed, as the process ends with the command.
    """
    try:
        from .cli.stop_signals import end_at_once

        end_at_once()
        from .cli.main import main as commands

        commands(prog_name="comfy-client")
    except KeyboardInterrupt:  # before the first handler is installed
        sys.exit(130)
    except ModuleNotFoundError as exc:
        if exc.name != "click":
            raise
        sys.exit(
            'the command line needs click: pip install "comfy-client-blocking[cli]", '
            'or in a checkout: pip install ".[cli]"'
        )


if __name__ == "__main__":
    main()
