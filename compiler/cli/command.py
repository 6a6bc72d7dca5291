"""Commands that take settings: from the command line and a repsimc.toml to one typed value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import typer

from .config import load_config
from .console import call_of
from .options import SETTINGS, ConfigOption, FormatOption, Quiet, Verbose


def with_settings(
    *names: str, judges: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command for typer of a function `run(call, settings, its own options)`.

    It takes the function's own options, then the settings of these names, then --config,
    --format, -v and -q. `settings` are what the command line says, then what the file does. One
    that `judges` shows an outcome too.
    """

    def command_of(run: Callable[..., None]) -> Callable[..., None]:
        def command(
            ctx: typer.Context,
            *,
            config: ConfigOption = None,
            format: FormatOption = None,
            verbose: Verbose = False,
            quiet: Quiet = False,
            **words: Any,
        ) -> None:
            call = call_of(ctx).take(format, verbose, quiet, judges)
            call.config = config
            said = {name: words.pop(name) for name in names}
            settings = load_config(config, Path.cwd(), said)
            run(call.take(format or settings.format, judges=judges), settings, **words)

        context, *last, _ = inspect.signature(command, eval_str=True).parameters.values()
        _, _, *own = inspect.signature(run, eval_str=True).parameters.values()
        own = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own]
        taken = [SETTINGS[name].parameter for name in names]
        command.__name__, command.__doc__ = run.__name__, run.__doc__
        # typer reads a command's options off its signature.
        command.__dict__["__signature__"] = Signature([context, *own, *taken, *last])
        return command

    return command_of
