"""Whisper's decoder on a GPU as recorded graphs: a step launches as one kernel would, not as hundreds one by one."""

from collections.abc import Callable

import torch
from torch import Tensor

from ray_jobs.engines.whisper_audio import Audio
from ray_jobs.engines.whisper_model import Decoder, DecoderState

_NUM_SIZES = 8

Step = Callable[[], tuple[Tensor, Tensor]]
"""A step over tensors that stay where they are; what it returns is good until any next step."""


class GraphDecoder:
    """A Decoder whose steps of one token are recorded once, for some batch sizes, and replayed from then on.

    A graph knows addresses, not tensors, so the caches of every batch lie in the same memory: one batch at a time.
    Each step looks at the caches' whole length through a mask, and a batch is filled up with idle rows to the next
    size that was recorded. What does not fit that (prompts, beams, larger batches) is the plain decoder's.
    """

    def __init__(
        self, decoder: Decoder, max_windows: int, max_length: int, record: Callable[[Step], Step] | None = None
    ) -> None:
        """Record the steps of up to `max_windows` windows with texts of up to `max_length` tokens.

        `record` turns a step into its replay; by default, a CUDA graph. Raises torch.OutOfMemoryError.
        """
        self._decoder = decoder
        self._max_windows = max_windows
        self._self_kv = decoder.text_cache(max_windows, max_length)
        self._audio = decoder.audio_cache(max_windows)
        self._keys = torch.arange(max_length, device=decoder.device)
        self._position = torch.zeros(1, dtype=torch.long, device=decoder.device)
        self._tokens = torch.zeros(max_windows, 1, dtype=torch.long, device=decoder.device)
        self._unit = -(-max_windows // _NUM_SIZES)
        record = record or _GraphRecorder(decoder.device)
        sizes = range(self._unit, max_windows + self._unit, self._unit)
        self._replays = [record(lambda size=size: self._run(size)) for size in sizes]  # type: ignore[misc]

    def start(self, audio: Tensor, max_length: int) -> DecoderState:
        """As Decoder.start; ends the batch before."""
        num_windows = len(audio)
        if num_windows > self._max_windows or max_length > len(self._keys):
            return self._decoder.start(audio, max_length)
        self._audio[:num_windows] = audio
        state = DecoderState(self._self_kv[:, :, :num_windows], Audio(self._audio[:num_windows]))
        state.self_kv.zero_()  # a mask hides what is finite only: no NaN may be left behind it
        return state

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """As Decoder.step; the result of a replayed step is good until the next one."""
        is_own = state.self_kv.data_ptr() == self._self_kv.data_ptr()
        num_rows, num_new = tokens.shape
        if not is_own or num_new > 1:
            return self._decoder.step(tokens, state)
        self._tokens[:num_rows] = tokens
        self._position.fill_(state.length)
        state.length += 1
        hidden, attention = self._replays[(num_rows - 1) // self._unit]()
        return hidden[:num_rows], attention[:num_rows]

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    def logits(self, hidden: Tensor, vocab_size: int | None = None) -> Tensor:
        """As Decoder.logits."""
        return self._decoder.logits(hidden, vocab_size)

    def exact_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """As Decoder.exact_logits."""
        return self._decoder.exact_logits(hidden, tokens)

    def _run(self, size: int) -> tuple[Tensor, Tensor]:
        return self._decoder.run(
            self._tokens[:size],
            self._position,
            self._self_kv[:, :, :size],
            Audio(self._audio[:size]),
            self._decoder.mask(self._keys, self._position),
        )


class _GraphRecorder:
    """Records steps as CUDA graphs that share their scratch memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # libraries set themselves up in the first call, outside the recording
            step()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = step()

        def replay() -> tuple[Tensor, Tensor]:
            graph.replay()
            return result

        return replay
