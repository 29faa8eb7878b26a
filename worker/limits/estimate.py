"""How many tokens a call will cost, before it is made: bytes / 4 plus the answer's bound, corrected by experience.

No tokenizer: the truth is the `usage` of the answer, and the correction learns from it per model (ECOSYSTEM 7).
"""

from __future__ import annotations

from collections import OrderedDict

#: English text runs at about four bytes a token in the common vocabularies.
_BYTES_PER_TOKEN = 4
#: Tokens an answer is taken to have when the request sets no bound.
_DEFAULT_OUTPUT = 512
#: How much one answer moves the correction: some ten answers to settle, one outlier does not swing it.
_WEIGHT = 0.1
#: One model's correction stays within these factors, however strange a `usage` is.
_LEAST, _MOST = 0.02, 8.0
#: Models remembered in a process; the one unused for longest goes first.
_MODELS = 1_000


class Estimator:
    """Estimates per model; of one process, since each learns quickly and a wrong start is trued up anyway."""

    def __init__(self) -> None:
        self._factors: OrderedDict[str, float] = OrderedDict()

    def estimate(self, model: str, request_bytes: int, max_output_tokens: int | None = None) -> int:
        """The tokens to reserve, at least 1."""
        return max(1, round(self._plain(request_bytes, max_output_tokens) * self._factors.get(model, 1.0)))

    def learn(self, model: str, request_bytes: int, max_output_tokens: int | None, actual_tokens: int) -> None:
        """Correct the model's estimates by what a call really used."""
        if actual_tokens <= 0:
            return
        seen = actual_tokens / self._plain(request_bytes, max_output_tokens)
        seen = min(_MOST, max(_LEAST, seen))
        known = self._factors.get(model)
        self._factors[model] = seen if known is None else known + _WEIGHT * (seen - known)
        self._factors.move_to_end(model)
        if len(self._factors) > _MODELS:
            self._factors.popitem(last=False)

    @staticmethod
    def _plain(request_bytes: int, max_output_tokens: int | None) -> float:
        return request_bytes / _BYTES_PER_TOKEN + (max_output_tokens or _DEFAULT_OUTPUT)
