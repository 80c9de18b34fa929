"""Listening: where, for whom, until when."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slotsched import logs
from slotsched.client import Client
from slotsched.errors import Refused, UsageError

if TYPE_CHECKING:
    from slotsched.settings import Settings

MOST_CONNECTIONS = 256
MOST_HEADER_BYTES = 32 << 10
KEEP_ALIVE_SECONDS = 5
SHUTDOWN_SECONDS = 10  # for answers that are under way
_BACKLOG = 128


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; 0. Where, the log says.

    Raises UsageError for an address that cannot be listened on, StoreError, and Refused where others than this machine
    could connect and no token was ever made.
    """
    import uvicorn

    from slotsched.web.app import create
    from slotsched.web.patience import Impatient

    logs.configure(level=settings.log_level)
    log = logs.get_logger("web")
    with Client.of(settings) as client, _listening(settings.web_listen) as listener:
        client.store.check()
        beyond, url = not _is_local(listener), _url(listener)
        local = not beyond and not settings.web_hosts  # another name is that of a proxy, which lets others in
        if not local and not client.store.tokens.any():
            raise Refused(
                f"{', '.join(settings.web_hosts) or settings.web_listen} can be reached from other machines, and no "
                "token is needed yet: everybody could run your jobs. Make one first: slotsched token add NAME"
            )
        if beyond:
            log.warning("tokens and logs travel in clear here; put a proxy with TLS in front", listening=url)
        app = create(
            client,
            local=local,
            hosts={socket.gethostname(), *settings.web_hosts},
            is_ending=lambda: server.should_exit,  # set at a signal
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                h11_max_incomplete_event_size=MOST_HEADER_BYTES,
                http=Impatient,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        log.info("listening", url=url)
        with _ending_quietly():
            server.run(sockets=[listener])
        log.info("ended")
    return 0


@contextmanager
def _listening(where: str) -> Iterator[socket.socket]:
    """A listening socket on `HOST:PORT`; port 0: a free one."""
    host, port = _parted(where)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"web_listen: {where}: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"web_listen: {where}: no host has such a name") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {where} ({error.strerror}); choose another: --web-listen 127.0.0.1:0"
            ) from None
        yield listener


def _parted(where: str) -> tuple[str, int]:
    host, colon, port = where.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f'web_listen: "{where}" is not HOST:PORT, such as 127.0.0.1:8686')
    return host.strip("[]"), int(port)


def _is_local(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def _ending_quietly() -> Iterator[None]:
    """The server ends its answers at a signal, then raises it again; having ended as asked is no failure."""
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
