"""Configuration: TOML files read strictly, and where kiosk keeps its things.

Everything lives below one folder, `home` (KIOSK_HOME, else /var/lib/kiosk), unless the configuration
file (--config, KIOSK_CONFIG, else /etc/kiosk/kiosk.toml where it exists) says otherwise.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from kiosk.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)
AGENT_FILE = Path("/etc/kiosk/agent.toml")


def parse_toml(path: Path) -> dict[str, Any]:
    """A TOML file's tables; UsageError naming the file when it is missing, not TOML, or larger than 1 MiB."""
    try:
        if path.stat().st_size > 1 << 20:
            raise UsageError("is larger than 1 MiB", where=str(path))
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("there is no such file", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"is not valid TOML: {e}", where=str(path)) from None


def read_toml(path: Path, model: type[Model]) -> Model:
    """Reads a TOML file as `model`; UsageError naming file and key when it does not fit."""
    return fitting(parse_toml(path), model, str(path), "Keys of this file")


def fitting(table: dict[str, Any], model: type[Model], where: str, keys: str) -> Model:
    """A table as `model`; UsageError naming the key and `where` when it does not fit, and what `keys` there are."""
    try:
        return model.model_validate(table)
    except ValidationError as e:
        key, said = faults(e)[0]
        what = said if said.startswith("unknown key") else f"{key}: {said}"
        raise UsageError(what, where=where, hint=f"{keys}: {known_keys(model)}") from None


def faults(error: ValidationError) -> list[tuple[str, str]]:
    """All that a validation found, each as its key and what is wrong with it."""
    found = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(p) for p in fault["loc"]) or "document"
        said = {"extra_forbidden": f"unknown key {key!r}", "missing": "missing"}
        found.append((key, said.get(fault["type"], fault["msg"].removeprefix("Value error, "))))
    return found


def known_keys(model: type[BaseModel]) -> str:
    """The keys that a file of this model may have at its top."""
    return ", ".join(sorted(f.alias or n for n, f in model.model_fields.items()))


@dataclass(frozen=True)
class S3Options:
    """What is said of servers besides their URL. boto3 is told where the service is (an http or https URL; None is
    Amazon or what boto3's configuration says) and its region. Credentials are never kiosk's settings. `ca`: see
    kiosk.tls, for web servers as well."""

    endpoint: str | None = None
    region: str | None = None
    ca: str | None = None


WebUrl = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]{1,1000}$")]
FlavourName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
FlavourText = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,2}/[1-9][0-9]{0,4}/[1-9][0-9]{0,4}$")]


FLEET = ("fleet_database", "lease_copies", "origin_budget")


class Settings(BaseModel):
    """Where things are. `url` and `root` are what a hypervisor was given once: the kiosk and its trust.

    `ca` is a file of the authorities whose certificates are believed, of https kiosks, mirrors and S3 services.
    `rollouts` is the file of plans for roll-outs (else /etc/kiosk/rollouts.toml, where there is one).

    A publication makes differences to the last `differences` versions, each in about `difference_seconds`.
    `keep` and `keep_days` say which versions of each image and layer `kiosk store prune` keeps (all, where
    neither is set), `grace_hours` how long it leaves what no version needs any more.
    `trackers` and `web_seeds` (URLs; of a web seed that of the repository) are written into the torrents of versions
    for other BitTorrent clients.
    `flavours` are the user's own names for CORES/MEMORY/SCRATCH in GiB. `agent` is the table that
    `kiosk agent` reads (docs/agent.md).
    `fleet_database` is a database's URL (None: fleet.sqlite in `home`). At most `lease_copies` hosts at a time read
    a version from the kiosk itself while others share it, and `origin_budget` bytes an hour (None: no limit).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Path("/var/lib/kiosk")
    url: str | None = None
    proxy: str | None = None
    root: Path | None = None
    ca: Path | None = None
    recipes: Path | None = None
    rollouts: Path | None = None
    cache: Path | None = None
    keep: Annotated[int, Field(ge=1)] | None = None
    keep_days: Annotated[int, Field(ge=0, le=36500)] | None = None
    grace_hours: Annotated[float, Field(ge=0, le=8760)] = 24
    differences: Annotated[int, Field(ge=0, le=16)] = 1
    difference_seconds: Annotated[float, Field(ge=0, le=3600)] = 2.5
    trackers: Annotated[tuple[WebUrl, ...], Field(max_length=16)] = ()
    web_seeds: Annotated[tuple[WebUrl, ...], Field(max_length=16)] = ()
    s3_endpoint: str | None = None
    s3_region: str | None = None
    flavours: dict[FlavourName, FlavourText] = Field(default_factory=dict)
    agent: dict[str, Any] = Field(default_factory=dict)
    fleet_database: str | None = Field(default=None, repr=False)
    lease_copies: Annotated[int, Field(ge=1, le=100)] = 2
    origin_budget: Annotated[int, Field(ge=1)] | None = None

    @property
    def s3(self) -> S3Options:
        """How s3:// URLs are reached."""
        return S3Options(self.s3_endpoint, self.s3_region, str(self.ca) if self.ca else None)

    @property
    def images(self) -> Path:
        """Built images and layers: NAME/VERSION/ (a layer's NAME is KIND/OWNER/NAME)."""
        return self.home / "built"

    @property
    def build_cache(self) -> Path:
        """Trees and packages kept between builds."""
        return self.cache or self.home / "cache"

    @property
    def repository(self) -> Path:
        """The static repository that is served: metadata/ targets/ objects/."""
        return self.home / "repository"

    @property
    def keys(self) -> Path:
        """Private keys, encrypted."""
        return self.home / "keys"

    @property
    def fleet_file(self) -> Path:
        """The fleet's database, where no other is named."""
        return self.home / "fleet.sqlite"

    @property
    def fleet_key(self) -> Path:
        """The key from which hosts' tokens follow."""
        return self.home / "fleet.key"

    @property
    def host(self) -> Path:
        """A hypervisor's cache of verified images and layers."""
        return self.home / "host"

    @property
    def vms(self) -> Path:
        """Running VMs."""
        return self.home / "vms"


def read_agent(settings: Settings, model: type[Model], file: Path | None = None) -> tuple[Model, str]:
    """The configuration of this host's agent as `model`, and where it stands: the file that is named, else
    AGENT_FILE where there is one, else the table [agent]. UsageError where it does not fit, or stands twice."""
    if file is None and AGENT_FILE.exists():
        file = AGENT_FILE
    if file is not None and settings.agent:
        raise UsageError(
            "the agent is configured twice", where=str(file), hint="Remove [agent] from kiosk.toml."
        )
    where = str(file) if file is not None else "[agent]"
    return fitting(parse_toml(file) if file is not None else settings.agent, model, where, "Keys"), where


def load(path: Path | None = None) -> Settings:
    """The settings: the file, then the environment (KIOSK_HOME, KIOSK_URL, ...) over it."""
    named = path or (Path(os.environ["KIOSK_CONFIG"]) if os.environ.get("KIOSK_CONFIG") else None)
    default = Path("/etc/kiosk/kiosk.toml")
    file = named or (default if default.exists() else None)
    settings = read_toml(file, Settings) if file else Settings()
    over = {
        key: os.environ[f"KIOSK_{key.upper()}"]
        for key in (
            "home",
            "url",
            "proxy",
            "root",
            "ca",
            "recipes",
            "cache",
            "s3_endpoint",
            "s3_region",
            *FLEET,
        )
        if os.environ.get(f"KIOSK_{key.upper()}")
    }
    return Settings.model_validate({**settings.model_dump(), **over})
