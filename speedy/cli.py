"""The command `speedy`. Each noun's commands live in a module of their own, which is imported only when it is used:
what a server's first process imports, it keeps in memory for ever.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

#: command -> module that defines it under the name `command`, and the line of `speedy --help`
_COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "serve": ("speedy.cli_serve", "serve", "Run the whole registry in one process (SQLite, one data directory)."),
    "push": ("speedy.cli_transfer", "push", "Push an image to any registry; one that was cut off goes on."),
    "pull": ("speedy.cli_transfer", "pull", "Pull an image from any registry; one that was cut off goes on."),
    "cluster": ("speedy.cli_cluster", "cluster", "Run a whole cluster as separate processes on this machine."),
    "status": ("speedy.cli_status", "status", "Show groups, members, health and free space."),
    "group": ("speedy.cli_group", "group", "Add groups of ChunkServers, or list them."),
    "volume": ("speedy.cli_volume", "volume", "Look into the files that keep the chunks, verify, scrub, compact them."),
    "config": ("speedy.cli_config", "config", "Show or check the settings in force."),
    "key": ("speedy.cli_key", "key", "Make the key that all rooms of a cluster share."),
    "migrate": ("speedy.cli_rooms", "migrate", "Bring the database's schema to this version."),
    "registry": ("speedy.cli_rooms", "registry", "Run a registry front end."),
    "imageserver": ("speedy.cli_rooms", "imageserver", "Run an ImageServer."),
    "metaserver": ("speedy.cli_rooms", "metaserver", "Run a MetaServer."),
    "chunkmaster": ("speedy.cli_rooms", "chunkmaster", "Run a ChunkMaster."),
    "chunkserver": ("speedy.cli_rooms", "chunkserver", "Run a ChunkServer."),
}


class _Nouns(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, _, says) in _COMMANDS.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from wire.version import version  # noqa: PLC0415 - costs 20 ms, which a server's start does not need

        click.echo(f"speedy {version()}")
        ctx.exit()


@click.group(cls=_Nouns, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def _speedy() -> None:
    """A container registry on its own replicated chunk store.

    `speedy serve` is all it takes on one machine; `speedy cluster up` shows a whole cluster on one machine.
    """


def main() -> None:
    """Entry point. Mistakes end with a plain message and status 1 (2: wrong command line), not with a traceback."""
    from wire.errors import SpeedyError  # noqa: PLC0415 - beside the settings' errors, where both are needed
    from wire.settings_load import SettingsError  # noqa: PLC0415

    try:
        _speedy(prog_name="speedy", standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except SettingsError as exc:
        several = f"{len(exc.problems)} settings are wrong" if len(exc.problems) > 1 else "A setting is wrong"
        click.echo(f"{several}:", err=True)
        for problem in exc.problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(1)
    except SpeedyError as exc:
        click.echo(f"Error: {exc.message or exc.code}", err=True)
        sys.exit(1)
