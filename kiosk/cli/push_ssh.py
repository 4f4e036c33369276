"""`kiosk push --ssh`: to hypervisors that may not connect out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from kiosk.cli.common import emit, size, table
from kiosk.cli.push import LOOK, few
from kiosk.config import Settings
from kiosk.errors import KioskError
from kiosk.progress import bar

AT_A_TIME = 8


def over_ssh(
    s: Settings,
    hosts: list[str],
    images: list[str],
    config: Path | None,
    remote: list[str],
    timeout: float,
    *,
    json: bool,
) -> None:
    """Pushes through ssh, several hosts at a time."""
    from kiosk.model.names import parse_ref
    from kiosk.serve import static, tunnel

    names = [str(parse_ref(image)) for image in images]
    with (
        static.serve(s.repository, "127.0.0.1", 0) as server,
        server.running(),
        ThreadPoolExecutor(AT_A_TIME) as pool,
        bar("push over ssh", None) as progress,
    ):
        work = [
            pool.submit(
                tunnel.push, h, names, port=server.server_port, config=config, remote=remote, timeout=timeout
            )
            for h in dict.fromkeys(hosts)
        ]
        while wait(work, timeout=LOOK).not_done:
            progress.update(server.app.sent - progress.n)
        done = [one.result() for one in work]
        sent = server.app.sent
    if json:
        emit({"sent": sent, "hosts": [vars(one) for one in done]})
    else:
        rows: list[tuple[Any, ...]] = []
        for one in done:
            rows += [(one.host, r["name"], r["version"], r["state"], size(r["moved"])) for r in one.results]
            rows += [(one.host, "", "", "failed", one.error)] if one.error else []
        table(["host", "name", "version", "state", "moved"], rows)
    failed = [one.host for one in done if one.error]
    if failed:
        raise KioskError(f"{len(failed)} of {len(done)} hosts failed: {few(failed)}")
