"""Runs the gateway, and makes its API keys.

    python -m serving.gateway_server --config gateway.toml --host 0.0.0.0 --port 8080
    python -m serving.gateway_server --add-key shop --scope recommend --scope feedback --keys keys.json

The config is TOML with the keys of `serving.gateway.settings.GatewaySettings`: `run`, `target`, `keys`, `certificate` and
`private_key` for TLS, and the rest.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import uvicorn

from serving.gateway.app import create_app
from serving.gateway.keys import Scope, add_key, make_key
from serving.gateway.settings import GatewaySettings, load_settings
from serving.json_log import FIELDS, configure_logging

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 30
SHUTDOWN_SECONDS = 10
MAX_HEADER_BYTES = 64 * 1024
"""Of a request that is not whole yet: its line and its headers."""


def server_config(settings: GatewaySettings, host: str, port: int) -> uvicorn.Config:
    """The web server's settings.

    Raises:
        ValueError: an address that others can reach, for a gateway that would answer them without a key.
    """
    if settings.keys is None and not _is_loopback(host):
        raise ValueError(
            f"host: a gateway without a key file answers this machine alone, received {host!r}; use 127.0.0.1, or make a "
            "key with --add-key and name the file in the settings (keys = ...)"
        )
    return uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ssl_certfile=None if settings.certificate is None else str(settings.certificate),
        ssl_keyfile=None if settings.private_key is None else str(settings.private_key),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is told to stop, or adds a key; returns the exit status."""
    given = _parse(arguments)
    try:
        if given.add_key is not None:
            if given.keys is None or not given.scope:
                raise ValueError("--add-key: needs --keys FILE and at least one --scope")
            key, line = make_key(given.add_key, tuple(dict.fromkeys(given.scope)))
            add_key(given.keys, line)
            print(key)
            print(f"Added to {given.keys}. It is shown this once: the file has only a hash of it.", file=sys.stderr)
            return 0
        settings = _settings(given)
        config = server_config(settings, given.host, given.port)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    configure_logging()
    facts = {"host": given.host, "port": given.port, "tls": settings.certificate is not None}
    if settings.keys is None:
        logger.warning("no key file: open to this machine alone", extra={FIELDS: facts})
    else:
        logger.info("serving", extra={FIELDS: facts})
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.gateway_server", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, help="settings as TOML")
    parser.add_argument("--run", type=Path, help="run folder, instead of a config or in place of its own")
    parser.add_argument("--data", type=Path, help="dataset folder, whose media are handed out")
    parser.add_argument("--target", help="host:port of the model server's gRPC port")
    parser.add_argument("--label", help="which release is asked for: stable or canary; stable unless given, where there is one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0 = any free port (default: %(default)s)")
    parser.add_argument("--add-key", metavar="NAME", help="make an API key of that name, print it and stop")
    parser.add_argument("--scope", action="append", choices=get_args(Scope), help="what the key may do; may be repeated")
    parser.add_argument("--keys", type=Path, help="the key file: that --add-key adds to, or that the gateway reads")
    return parser.parse_args(arguments)


def _settings(given: argparse.Namespace) -> GatewaySettings:
    if given.config is None and given.run is None:
        raise ValueError("--config or --run: give one of them")
    options = {"run": given.run, "source": given.data, "target": given.target, "label": given.label, "keys": given.keys}
    chosen = {name: value for name, value in options.items() if value is not None}
    if given.config is None:
        return GatewaySettings(**chosen)
    return GatewaySettings.model_validate({**load_settings(given.config).model_dump(exclude_unset=True), **chosen})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
