"""``python -m spatialprior.run``: compose, check, hand over to the pipeline."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import yaml

import spatialprior
from spatialprior.run.arguments import parse
from spatialprior.run.errors import EXIT_FAILED, is_expected, report
from spatialprior.run.help import help_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 failed, 2 asked for what does not exist."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parse(argv)
        flags = arguments.flags
        if "--help" in flags:
            print(help_text(), end="")
            return 0
        if "--version" in flags:
            print(f"spatialprior {spatialprior.__version__}")
            return 0
        # Not at the top: what follows may import torch, and help should not.
        if arguments.values.get("mode") == "verify":
            from spatialprior.run.verify import verify

            return verify({**arguments.choices, **arguments.values})
        from spatialprior.run.compose import compose_run

        config = compose_run([text for text in argv if text not in flags])
        if "--cfg" in flags:
            print(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), end="")
            return 0
        if config.mode == "plan":
            from spatialprior.run.plan import plan

            return plan(config)
        if config.mode == "correspondence":
            from spatialprior.run.correspondence import correspondence

            return correspondence(config)
        from spatialprior.run.pipeline import run

        return run(config)
    except KeyboardInterrupt:
        print(
            "spatialprior: stopped; resume=RUN_FOLDER goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if is_expected(error):
            code = report(error)
        elif several:
            traceback.print_exc()
            code = EXIT_FAILED
        else:
            raise
        if several:  # unwinding would wait for collective operations that the others never join
            sys.stderr.flush()
            os._exit(code)
        return code


if __name__ == "__main__":
    sys.exit(main())
