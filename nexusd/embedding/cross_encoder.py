"""A cross-encoder on the processor: query and text as one pair, one number a pair.

Owns the tokenizer and the onnxruntime session. Runs in the child process only; knows no pipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # ships none
import tokenizers

from nexusd.embedding.model import ModelUnavailable

MAX_PIECES = 512        # of query and text together; what these models were trained with
MAX_CHARACTERS = 8_192  # of either: more than those pieces, and a megabyte would cost seconds in the tokenizer
BATCH = 8               # pairs of similar length run together; more pad more
_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FATAL_ONLY = 4         # errors come back as exceptions


class CrossEncoder:
    """The model of a directory with model.onnx and tokenizer.json."""

    def __init__(self, directory: Path, threads: int) -> None:
        """Load it.

        Raises:
            ModelUnavailable: the files are not a model that this class can run.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        weights = directory / "model.onnx"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer((directory / "tokenizer.json").read_bytes())
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(MAX_PIECES, strategy="longest_first")
            self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  both libraries raise plain Exception
            raise ModelUnavailable(f"{directory}: cannot be loaded: {str(error).splitlines()[0][:300]}") from None
        self._inputs = {given.name: _INTEGERS.get(given.type) for given in self._session.get_inputs()}
        if set(self._inputs) - _KNOWN_INPUTS or None in self._inputs.values():
            raise ModelUnavailable(f"{weights}: not a cross-encoder: it takes {', '.join(sorted(self._inputs))}")

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text fits the query: the model's one number, or the last of several (the "yes").

        Raises:
            ModelUnavailable: the model does not run on these.
        """
        pairs = [self._tokenizer.encode(query[:MAX_CHARACTERS], text[:MAX_CHARACTERS]) for text in texts]
        scores = [0.0] * len(texts)
        shortest_first = sorted(range(len(pairs)), key=lambda n: len(pairs[n]))
        for start in range(0, len(pairs), BATCH):
            places = shortest_first[start : start + BATCH]
            shape = (len(places), max(len(pairs[place]) for place in places))
            given = {name: np.zeros(shape, np.int64) for name in _KNOWN_INPUTS}
            for row, place in enumerate(places):
                pair, length = pairs[place], len(pairs[place])
                given["input_ids"][row, :length] = pair.ids
                given["attention_mask"][row, :length] = pair.attention_mask
                given["token_type_ids"][row, :length] = pair.type_ids
            feed = {name: given[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
            try:
                output = np.asarray(self._session.run(None, feed)[0], np.float64).reshape(len(places), -1)[:, -1]
            except Exception as error:  # noqa: BLE001  the runtime raises plain Exception
                raise ModelUnavailable(f"the model fails: {str(error).splitlines()[0][:300]}") from None
            if not np.isfinite(output).all():
                raise ModelUnavailable("the model's answer is not a number")
            for place, value in zip(places, output, strict=True):
                scores[place] = float(value)
        return scores
