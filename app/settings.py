"""The settings of a server: one frozen object, from the command line, `DVID_*` variables and an optional TOML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from app.backends.limits import JournalLimits

#: Where the command line hands its settings to the worker processes.
HANDED_SETTINGS = "DVID_CLOUD_SETTINGS"
#: Settings that are handed over in variables of their own.
SECRETS = ("admin_token", "jwt_secret_key")
#: RFC 7518 wants no shorter key for HS256.
LEAST_KEY_BYTES = 32


class Settings(BaseSettings):
    """All that can be chosen. Field `x_y` is `x_y` in TOML and `DVID_X_Y` in the environment."""

    model_config = SettingsConfigDict(env_prefix="DVID_", frozen=True, extra="ignore", toml_file=None)

    store: str = Field(
        default="dvid-data", description="URL of the object store: a folder, file://, memory://, gs://, s3://"
    )
    catalog: str = Field(
        default="", description="URL of the catalog: empty for a tree in the store, or firestore://PROJECT[/DATABASE]"
    )
    stores: dict[str, str] = Field(default_factory=dict, description="names and URLs of further stores")
    assignments: dict[str, str] = Field(
        default_factory=dict, description="which store new data go to, by name:root, tag=value, datatype or default"
    )
    sources: list[str] = Field(
        default_factory=list, description="URLs below which published volumes may lie, beside the stores' own"
    )
    durability: Literal["power", "process"] = Field(
        default="power", description="on file://, whether an answer waits for fsync (power) or not (process)"
    )
    journal: JournalLimits = Field(
        default_factory=JournalLimits, description="on file://, how much waits in journals before it is stored"
    )
    max_staleness: float = Field(
        default=1.0, ge=0, description="seconds for which a bucket's newest commit may stay unseen"
    )
    store_timeout: float = Field(default=10.0, gt=0, description="seconds after which a silent store is given up")

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on")
    workers: int = Field(default=0, ge=0, description="processes that serve; 0: one for each core, 1 on memory://")
    admin_token: SecretStr = Field(
        default=SecretStr(""), description="the token that makes a request an administrator's"
    )
    cors_domains: list[str] = Field(
        default_factory=lambda: ["*"], description="origins that browsers may call from; * for all"
    )
    note: str = Field(default="", description="a text shown by /api/server/note")
    read_only: bool = Field(default=False, description="refuse every write but an administrator's")
    allow_body_split: bool = Field(default=True, description="whether bodies may be split by voxels (POST split)")
    full_write: bool = Field(default=False, description="accept writes to locked versions from everybody")

    auth: Literal["none", "token", "authfile"] = Field(
        default="none", description="who may read and write repos: everybody, whoever has a token, or as a file says"
    )
    auth_file: str = Field(default="", description="a JSON file: user, or *, to read, write or readwrite")
    jwt_secret_key: SecretStr = Field(default=SecretStr(""), description="the key by which tokens are signed")
    block_list_file: str = Field(default="", description="a file of users and addresses that are not served")
    allow_timing: bool = Field(default=False, description="let web pages of other origins see how long requests took")
    web_client: str = Field(default="", description="a folder of files to serve where the API has nothing")
    web_redirect_path: str = Field(default="", description="where to send requests for files that are not there")
    web_default_file: str = Field(default="", description="the file of that folder for what is not there")
    shared: str = Field(default="", description="a folder for the processes of one server; `serve` makes it itself")

    cache_bytes: int = Field(default=256 << 20, ge=0, description="memory for stored values and encoded answers")
    max_body_bytes: int = Field(default=3 << 30, gt=0, description="the largest request body")
    max_answer_bytes: int = Field(default=3 << 30, gt=0, description="the largest answer put together in memory")
    threads: int = Field(
        default=0, ge=0, description="threads for work on voxels in each process; 0: one for each core"
    )

    @model_validator(mode="after")
    def _has_one_mode(self) -> Settings:
        if self.read_only and self.full_write:
            raise ValueError("read_only and full_write exclude each other")
        return self

    @model_validator(mode="after")
    def _can_authorise(self) -> Settings:
        if self.auth != "none" and len(self.jwt_secret_key.get_secret_value().encode()) < LEAST_KEY_BYTES:
            raise ValueError(f"auth needs a jwt_secret_key of at least {LEAST_KEY_BYTES} bytes")
        if (self.auth == "authfile") != bool(self.auth_file):
            raise ValueError("auth authfile and an auth_file go together")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line wins over the environment, the environment over the file that `DVID_CONFIG` names."""
        config = os.environ.get("DVID_CONFIG")
        sources = [init_settings, env_settings]
        if config:
            sources.append(TomlConfigSettingsSource(settings_cls, Path(config)))
        return tuple(sources)

    @property
    def cores(self) -> int:
        """The cores that this process may use."""
        return len(os.sched_getaffinity(0))

    @property
    def worker_count(self) -> int:
        """How many processes serve."""
        if self.store.startswith("memory:"):
            return 1
        return self.workers or self.cores
