"""The command line: one command per verb, with the verb's own arguments."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator

import typer
from typer.core import TyperCommand

from regionssl.errors import InputError
from regionssl.verbs.demo import demo
from regionssl.verbs.doctor import diagnose, fails
from regionssl.verbs.evaluate import evaluate
from regionssl.verbs.export import export
from regionssl.verbs.pack import pack
from regionssl.verbs.pretrain import pretrain
from regionssl.verbs.prove import prove
from regionssl.verbs.recipes import recipes
from regionssl.verbs.regions import find_regions
from regionssl.verbs.report import make_report
from regionssl.verbs.show import show


def _exit_code(result: object) -> None:
    """1 where the doctor found that a run would fail; what other verbs return says nothing of it."""
    if fails(result):
        raise typer.Exit(1)


app = typer.Typer(
    result_callback=_exit_code,
    name="regionssl",
    help="Region-level self-supervised pre-training of detection backbones on your own images.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class ManyValues(TyperCommand):
    """A command whose repeatable options take several values in a row: ``--fractions 0.1 1``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        many = {name for one in self.params if getattr(one, "multiple", False) for name in one.opts}
        return super().parse_args(ctx, list(_repeated(args, many)))


def _repeated(args: list[str], many: set[str]) -> Iterator[str]:
    """``--name a b`` as ``--name a --name b`` for the names in ``many``; the next option ends the row."""
    name, count = "", 0
    for arg in args:
        if arg.startswith("-") and len(arg) > 1:
            name, count = (arg if arg in many else ""), 0
        elif name:
            count += 1
            if count > 1:
                yield name
        yield arg


for verb in (pretrain, recipes, export, evaluate, show, pack, demo):
    app.command(help=(verb.__doc__ or "").partition("\n\n")[0])(verb)
app.command(help=(prove.__doc__ or "").partition("\n\n")[0], cls=ManyValues)(prove)
# From Python these have other names: regionssl.regions, regionssl.doctor and regionssl.report are packages.
app.command("regions", help=(find_regions.__doc__ or "").partition("\n\n")[0])(find_regions)
app.command("report", help=(make_report.__doc__ or "").partition("\n\n")[0])(make_report)
app.command("doctor", help=(diagnose.__doc__ or "").partition("\n\n")[0])(diagnose)


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
