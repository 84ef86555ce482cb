"""A sentence embedding model on the processor: word pieces, one pass, mean, unit length.

Owns the tokenizer and the onnxruntime session, and the arithmetic between a text and its vector. Runs in
the child process only (numpy and onnxruntime are imported here and nowhere else); knows no pipe and no queue.
`embed` may be called from several threads at once: each call computes in its own thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # ships none
import tokenizers

from nexusd.embedding.embedder import Vector
from nexusd.embedding.model import ModelUnavailable, TextRefused
from nexusd.embedding.model_files import ModelFiles

# Measured: runs of one or two texts of 60 word pieces are the fastest, tiny texts gain from company;
# a larger run buys nothing, holds its memory longer and pads more.
MAX_RUN_PIECES = 256

# A word piece is four characters or so. What lies past this could only matter to a text of
# hardly anything but long words unknown to the model; a megabyte costs seconds in the tokenizer.
MAX_CHARS_PER_PIECE = 16

_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings")  # in order of preference
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_PROBE = "probe"
_UNKNOWN = ("[UNK]", "<unk>")  # what tokenizers put in the place of what they have no piece for
_FATAL_ONLY = 4  # errors come back as exceptions; the runtime's own lines would bring colours into the log


class OnnxModel:
    """A `Model` in onnxruntime."""

    def __init__(self, files: ModelFiles) -> None:
        """Load it; about a quarter of a second for a small one.

        Raises:
            ModelUnavailable: the files are not a model that this class can run.
        """
        self._max_chars = files.window * MAX_CHARS_PER_PIECE
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(files.tokenizer.read_bytes())
            self._tokenizer.no_padding()  # files come with "always 128"; a run is padded to its longest
            self._tokenizer.enable_truncation(files.window)
            self._session = onnxruntime.InferenceSession(
                str(files.weights), _session_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  both libraries raise plain Exception
            raise ModelUnavailable(f"{files.weights}: cannot be loaded: {_first_line(error)}") from None
        self._unknown = {self._tokenizer.token_to_id(token) for token in _UNKNOWN}
        self._inputs = {given.name: _INTEGERS.get(given.type) for given in self._session.get_inputs()}
        if set(self._inputs) - _KNOWN_INPUTS or None in self._inputs.values():
            raise ModelUnavailable(
                f"{files.weights}: not a sentence embedding model: it takes {', '.join(sorted(self._inputs))}"
            )
        outputs = [output.name for output in self._session.get_outputs()]
        self._output = next((name for name in _OUTPUTS if name in outputs), outputs[0])
        try:
            self.dimension = len(self._run([self._tokenizer.encode(_PROBE)])[0])
        except Exception as error:  # noqa: BLE001  the runtime raises plain Exception
            raise ModelUnavailable(f"{files.weights}: does not run: {_first_line(error)}") from None

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One unit vector a text, in order, as float32 little-endian bytes.

        Raises:
            TextRefused: one text cannot be embedded.
            ModelUnavailable: none can, at the moment.
        """
        encodings = [self._tokenizer.encode(text[: self._max_chars]) for text in texts]
        vectors = [b""] * len(texts)
        for run in _runs([len(encoding) for encoding in encodings]):
            for position, vector in zip(run, self._attempt(run, encodings), strict=True):
                length = np.linalg.norm(vector)
                if not np.isfinite(length) or length == 0.0:
                    raise TextRefused(position, "the model's answer to this text is not a vector")
                vectors[position] = (vector / length).astype("<f4").tobytes()
        return vectors

    def count_tokens(self, words: Sequence[str]) -> list[int]:
        """What each word costs in the model's own tokens; 0 for one that its tokenizer does not know."""
        return [self._tokens(word) for word in words]

    def _tokens(self, word: str) -> int:
        # after a blank, as words stand in a text: tokenizers that make it part of the word know most words so
        encoding = self._tokenizer.encode(f" {word}", add_special_tokens=False)
        parts = (encoding, *encoding.overflowing)
        if any(piece in self._unknown for part in parts for piece in part.ids):
            return 0
        return sum(map(len, parts))

    def _attempt(self, run: list[int], encodings: list[Any]) -> Any:
        try:
            return self._run([encodings[position] for position in run])
        except Exception:  # noqa: BLE001  the runtime raises plain Exception
            return self._one_by_one(run, encodings)

    def _one_by_one(self, run: list[int], encodings: list[Any]) -> list[Any]:
        """Find whose fault it was. A text's, if the model still runs on a probe: a tokenizer that knows more
        words than its model fails on single ones.
        """
        rows = []
        for position in run:
            try:
                rows.append(self._run([encodings[position]])[0])
            except Exception as error:  # noqa: BLE001  the runtime raises plain Exception
                self._insist(error)
                raise TextRefused(position, f"the model fails on this text: {_first_line(error)}") from None
        return rows

    def _insist(self, cause: Exception) -> None:
        """Return if the model still runs."""
        try:
            self._run([self._tokenizer.encode(_PROBE)])
        except Exception:  # noqa: BLE001  the runtime raises plain Exception
            raise ModelUnavailable(f"the model fails: {_first_line(cause)}") from None

    def _run(self, encodings: list[Any]) -> Any:
        """The mean of the last layer over each text's word pieces."""
        pieces = max(len(encoding) for encoding in encodings)
        ids = np.zeros((len(encodings), pieces), np.int64)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding)] = encoding.ids
            mask[row, : len(encoding)] = encoding.attention_mask
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: given[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        (output,) = self._session.run([self._output], feed)
        if output.ndim == 2:  # the model pools by itself
            return output
        weights = mask[:, :, None].astype(np.float32)
        return (output * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)


def _session_options() -> Any:
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # a third less memory, no slower
    # One: then a run computes in the thread that asked, and the thread's priority is the run's priority.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    return options


def _runs(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions in groups of similar length, each no larger than MAX_RUN_PIECES with its padding."""
    run: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if run and lengths[position] * (len(run) + 1) > MAX_RUN_PIECES:
            yield run
            run = []
        run.append(position)
    if run:
        yield run


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
