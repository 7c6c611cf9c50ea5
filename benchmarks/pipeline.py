"""Recordings to transcripts, whole commands side by side: `python -m benchmarks.pipeline [--hours 1] [--rounds 2]`.

The same corpus goes through, in turns, each command from a cold start to its end:

pods          three sequential processes, file after file: the workflow that this project replaces
batched       faster-whisper's batched pipeline in a process pool
ray_data      Ray Data alone, as its guide to batch inference shows it
staged        ours as three jobs: preprocess, transcribe, postprocess
fused         ours as one job
fused_plain   ours as one job without redaction, which `batched` and `ray_data` do not have either; WER is counted here

and beside them
batched_words `batched` that finds the words' times too, which ours always has
bare_engine   the fused job's own model in one process, over windows prepared beforehand
fused_apart   the fused job whose engine leaves one core to Spark, Ray and redaction, as a GPU leaves them all
bare_apart    that engine in one process

call_s_per_s  seconds of calls done per second of the whole command, start-up included
steady        the fused job's rate from the first partition handed to ASR until the last commit: start-up excluded, the
              tail included
engine_share  steady / bare engine, of the same round, where the engine shares all its cores with Ray and Spark
engine_share_apart  the same of the two that leave a core to them: how well the pipeline feeds an engine
wer           word errors per reference word; wer_digits with every run of digits split, as in benchmarks.wer
ratio         fused / the fastest of pods, batched and ray_data, of the same round
ratio_words   fused / batched_words: the same for what both give, words with times

Ours does more than any peer here: redaction, words with times, exactly-once output and the report are all on.
"""

import argparse
import json
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks import harness
from benchmarks.corpus import Corpus, make_corpus
from benchmarks.harness import Contestant, Reading
from benchmarks.peers import read_texts
from benchmarks.simulation import work_s
from benchmarks.wer import Score

PEERS = ("pods", "batched", "ray_data")
OURS = ("staged", "fused", "fused_plain", "fused_apart")
WITH_WORDS = "batched_words"
BARE = ("bare_engine", "bare_apart")
CONTESTANTS = (*PEERS, WITH_WORDS, *OURS, *BARE)
SHARES = {"engine_share": ("fused", "bare_engine"), "engine_share_apart": ("fused_apart", "bare_apart")}


class Race:
    """The contestants over one corpus; what each writes lies in a folder of its own per round."""

    def __init__(self, corpus: Corpus, folder: Path, num_cpus: int) -> None:
        self.corpus = corpus
        self._folder = folder
        asr = {"engine": "whisper_torch", "language": "en", "actors": {"num_cpus": num_cpus}}  # as the peers are told
        self.spec: dict[str, Any] = {
            "input": {"uri": corpus.folder},
            "output": {"call_files": False},
            "asr": asr,
            "llm": {"engine": "none"},
        }
        plain = self._store("plain", {**self.spec, "redact": {"mode": "store_unredacted"}})
        apart = self._store("apart", {**self.spec, "asr": {**asr, "actors": {"num_cpus": max(1, num_cpus - 1)}}})
        shared = self._store("run", self.spec)
        self._specs = {"fused_plain": plain, "fused_apart": apart, "bare_apart": apart}
        self._specs |= dict.fromkeys(("staged", "fused", "bare_engine"), shared)
        self._references = {
            path.stem: json.loads(path.read_text())["turns"] for path in Path(corpus.folder).glob("call-*.json")
        }

    def _store(self, name: str, spec: Mapping[str, Any]) -> str:
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(spec)))
        return str(path)

    def contestants(self, names: Sequence[str]) -> list[Contestant]:
        return [
            Contestant(
                name=name,
                command=lambda number, name=name: self._command(name, number),  # type: ignore[misc]
                read=lambda number, name=name: self._facts(name, number),  # type: ignore[misc]
            )
            for name in names
        ]

    def _out(self, name: str, number: int) -> Path:
        return self._folder / f"{name}-{number}"

    def _command(self, name: str, number: int) -> Sequence[str]:
        out = str(self._out(name, number))
        if name in PEERS:
            return [sys.executable, "-m", f"benchmarks.peers.{name}", self.corpus.folder, out]
        if name == WITH_WORDS:
            return [sys.executable, "-m", "benchmarks.peers.batched", self.corpus.folder, out, "--words"]
        spec = self._specs[name]
        if name in BARE:
            return [sys.executable, "-m", "benchmarks.bare_engine", spec, out]
        if name == "staged":
            jobs = [
                shlex.join([sys.executable, "-m", f"ray_jobs.{job}", "--spec", spec, "--output", out])
                for job in ("preprocess", "transcribe", "postprocess")
            ]
            return ["bash", "-c", " && ".join(jobs)]
        return [sys.executable, "-m", "ray_jobs.run", "--spec", spec, "--output", out]

    def _facts(self, name: str, number: int) -> Mapping[str, float]:
        out = self._out(name, number)
        facts: dict[str, float] = {}
        if name in (*PEERS, WITH_WORDS):
            facts.update(self._word_errors(read_texts(out)))
        elif name == "fused_plain":
            facts.update(self._word_errors(_our_texts(out / "unredacted" / "transcripts")))
        elif name in BARE:
            facts.update(json.loads((out / "bare.json").read_text()))
        if name.startswith("fused"):
            facts["steady_call_s_per_s"] = self.corpus.audio_s / work_s(json.loads((out / "report.json").read_text()))
        shutil.rmtree(out)
        return facts

    def _word_errors(self, texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
        score = Score()
        for call, turns in self._references.items():
            for channel, heard in enumerate(texts.get(call, ("", ""))):
                said = " ".join(turn["text"] for turn in turns if turn["channel"] == channel)
                score.count_text(said, heard)
        return score.word_errors()


def _our_texts(folder: Path) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for row in pq.read_table(folder, columns=["call_id", "num_channels", "utterances"]).to_pylist():
        said: list[list[str]] = [[] for _ in range(max(2, row["num_channels"]))]
        for utterance in row["utterances"]:
            said[utterance["channel"]].append(utterance["text"])
        texts[row["call_id"]] = [" ".join(parts) for parts in said]
    return texts


def summarise(race: Race, readings: Mapping[str, Sequence[Reading]]) -> dict[str, Any]:
    audio_s = race.corpus.audio_s
    rates = {name: [audio_s / reading.wall_s for reading in runs] for name, runs in readings.items()}
    contestants = {}
    for name, runs in readings.items():
        measured: dict[str, Any] = {
            "call_s_per_s": harness.spread(rates[name]),
            "wall_s": harness.spread([run.wall_s for run in runs]),
            "cpu_s": harness.spread([run.cpu_s for run in runs]),
            "peak_gib": harness.spread([run.peak_bytes / 2**30 for run in runs]),
        }
        for fact in runs[0].facts:
            measured[fact] = harness.spread([run.facts[fact] for run in runs])
        contestants[name] = measured
    result: dict[str, Any] = {
        "benchmark": "pipeline",
        "audio_s": audio_s,
        "num_calls": race.corpus.num_calls,
        "silent_share": race.corpus.silent_share,
        "num_rounds": len(next(iter(readings.values()))),
        "contestants": contestants,
        "spec": race.spec,
    }
    peers = [name for name in PEERS if name in rates]
    if "fused" in rates and peers:
        best = max(peers, key=lambda name: statistics.median(rates[name]))
        result |= {
            "ours": statistics.median(rates["fused"]),
            "peer": statistics.median(rates[best]),
            "best_peer": best,
            **_paired("ratio", rates["fused"], rates[best]),
        }
    if "fused" in rates and WITH_WORDS in rates:
        result |= _paired("ratio_words", rates["fused"], rates[WITH_WORDS])
    for share, (fused, alone) in SHARES.items():
        if fused in readings and alone in readings:
            steady = [run.facts["steady_call_s_per_s"] for run in readings[fused]]
            bare = [run.facts["bare_call_s_per_s"] for run in readings[alone]]
            result |= _paired(share, steady, bare)
    return result


def _paired(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The ratio of each round's two under `name`: its median and its range."""
    ratio = harness.paired_ratio(ours, theirs)
    return {name: ratio["median"], f"{name}_range": [ratio["min"], ratio["max"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="audio in the corpus")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warmups", type=int, default=0, help="rounds before those: every command starts cold anyway")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speech", type=Path, help="folder of recordings with a manifest.tsv, beside the sample calls")
    parser.add_argument("--cpus", type=int, default=2, help="cores of the machine that the ASR engine may use")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    options = parser.parse_args()
    corpus = make_corpus(hours=options.hours, seed=options.seed, speech_folder=options.speech)
    print(f"{corpus.num_calls} calls, {corpus.audio_s / 3600:.2f} h, {corpus.silent_share:.0%} silent", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        race = Race(corpus, Path(folder), options.cpus)
        contestants = race.contestants(options.only)
        readings = harness.alternate(contestants, num_rounds=options.rounds, num_warmups=options.warmups)
        print(json.dumps(summarise(race, readings)))


if __name__ == "__main__":
    main()
