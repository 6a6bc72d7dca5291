"""The command line: options to values, values to tables or JSON.

Heavy modules are imported inside the commands, so that `repsimc --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from . import baselines as cli_baselines
from . import build as cli_build
from . import bundle as cli_bundle
from . import compile as cli_compile
from . import depth as cli_depth
from . import explore as cli_explore
from . import inspect as cli_inspect
from . import similarity as cli_similarity
from .console import Call, guarded
from .options import examples

app = typer.Typer(
    name="repsimc",
    help="Make several neural networks fit on one edge device.",
    epilog=examples(
        "repsimc compile a.onnx b.onnx --budget 2GB",
        "repsimc compile a.onnx b.onnx --budget 60% --calib frames.npz -o bundle/",
        "repsimc verify bundle/ --data labelled.npz --labels label",
        "repsimc run bundle/ --model a --input frame.npy",
    )
    + "\n\n"
    + "Exit codes: 0 done, 1 internal error, 2 usage, 3 bad model or data, 4 fidelity floor not "
    "met, 5 budget not met, 6 backend missing, 7 regressed, 8 can't be judged.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from ... import __version__

        print(f"repsimc {__version__}")
        raise typer.Exit


def _cmake_dir(asked: bool) -> None:
    if asked:
        from ... import __file__ as home

        print(Path(home).parent / "cmake")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    cmake_dir: Annotated[
        bool,
        typer.Option(
            "--cmake-dir",
            callback=_cmake_dir,
            is_eager=True,
            help="Print the folder of repsimc-config.cmake, repsimc.mk and repsimc.bzl.",
        ),
    ] = False,
) -> None:
    """Make several neural networks fit on one edge device."""


app.command(epilog=cli_compile.COMPILE_EXAMPLES)(cli_compile.compile)
app.command(epilog=cli_inspect.INSPECT_EXAMPLES)(cli_inspect.inspect)
app.command(epilog=cli_explore.EXPLORE_EXAMPLES)(cli_explore.explore)
app.command(epilog=cli_depth.DEPTH_EXAMPLES)(cli_depth.depth)
app.command(epilog=cli_similarity.SIMILARITY_EXAMPLES)(cli_similarity.similarity)
app.command(epilog=cli_bundle.VERIFY_EXAMPLES)(cli_bundle.verify)
app.command(epilog=cli_bundle.RUN_EXAMPLES)(cli_bundle.run)
app.command(epilog=cli_bundle.BENCH_EXAMPLES)(cli_bundle.bench)
app.command(epilog=cli_baselines.CHECK_EXAMPLES)(cli_baselines.check)
app.command(epilog=cli_baselines.DIFF_EXAMPLES)(cli_baselines.diff)
app.command(epilog=cli_build.BUILD_EXAMPLES)(cli_build.build)
app.command(epilog=cli_build.EXPORT_EXAMPLES)(cli_build.export)
app.command(epilog=cli_build.DOCTOR_EXAMPLES)(cli_build.doctor)
app.command(epilog=cli_inspect.PASSES_EXAMPLES)(cli_inspect.passes)


def call(arguments: Sequence[str]) -> int:
    """The exit code of a command line; errors are told, not raised."""
    words = list(arguments) or ["--help"]

    def run(call: Call) -> object:
        try:
            return app(args=words, prog_name="repsimc", standalone_mode=False, obj=call)
        except SystemExit as ended:
            # Typer exits with 1, which is an internal error's, where a reader has gone.
            if isinstance(ended.__context__, OSError):
                raise ended.__context__ from None
            raise

    return guarded(run, words)
