"""The command line: words, tables and exit codes. The only place that prints.

Exit status: 0 done, 1 failed, 2 bad usage or bad input; an unexpected exception is 1, never 2.
"""

from __future__ import annotations

import sys


def main() -> None:
    from viscum.cli.output import fail

    try:
        from viscum.cli.app import app

        sys.exit(app.main(prog_name="viscum", standalone_mode=False) or 0)
    except SystemExit:
        raise
    except BaseException as error:
        sys.exit(fail(error))


def controller() -> None:
    """viscumd."""
    sys.argv.insert(1, "controller")
    main()


if __name__ == "__main__":
    main()
