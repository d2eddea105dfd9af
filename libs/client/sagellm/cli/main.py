"""Entry point of `sagellm`: the version at once, commands when they are called, errors as one sentence."""

import os
import sys

DEBUG_VARIABLE = "SAGELLM_DEBUG"


def main() -> None:
    """Run the command line. Exit code 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        from sagellm_common.version import __version__

        sys.stdout.write(f"sagellm {__version__}\n")
        return
    raise SystemExit(_run(arguments))


def _run(arguments: list[str]) -> int:
    from sagellm.cli.app import build_app
    from sagellm.cli.console import print_error
    from sagellm_common.errors import SageError

    try:
        build_app(arguments)(arguments, prog_name="sagellm")
    except SageError as error:
        _debug_traceback()
        print_error(error.message)
        return 1
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except (KeyboardInterrupt, EOFError):
        return 130
    except Exception as error:
        _debug_traceback()
        print_error(f"{type(error).__name__}: {error}. This is a fault in sageLLM; {DEBUG_VARIABLE}=1 shows where.")
        return 1
    return 0


def _debug_traceback() -> None:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        import traceback

        traceback.print_exc()


def _forget_stdout() -> None:
    """The reader of our output is gone (`sagellm ... | head`): do not fail again when Python flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
