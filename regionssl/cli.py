"""The command line: one command per verb, with the verb's own arguments."""

from __future__ import annotations

import errno
import sys

import typer

from regionssl.errors import InputError
from regionssl.verbs.demo import demo
from regionssl.verbs.export import export
from regionssl.verbs.pretrain import pretrain
from regionssl.verbs.recipes import recipes
from regionssl.verbs.regions import find_regions
from regionssl.verbs.show import show

app = typer.Typer(
    name="regionssl",
    help="Region-level self-supervised pre-training of detection backbones on your own images.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (pretrain, recipes, export, show, demo):
    app.command(help=(verb.__doc__ or "").partition("\n\n")[0])(verb)
# From Python the verb has another name: regionssl.regions is a package.
app.command("regions", help=(find_regions.__doc__ or "").partition("\n\n")[0])(find_regions)


# Failures of the machine's storage that can strike any write.
_OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main() -> None:
    """Run the command line; what the user or the machine can mend ends it with a sentence and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"regionssl: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        place = f" ({error.filename})" if error.filename else ""
        print(f"regionssl: {error.strerror}{place}; the last checkpoint, if there is one, is whole", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
