"""The methods' names, phases and parameters, in plain Python (importing this module imports no torch).

A `MethodChoice` is what a request carries: at most one method for each phase. An absent phase is
dense. Its wire form is a JSON object, so that it can travel in a spec, a database row or vLLM's
`SamplingParams.extra_args`:

    {"prefill": {"name": "vertical_slash", "vertical_size": 512, …},
     "decode": {"name": "quest", "token_budget": 1024, …}}

Parameter names and defaults follow "The Sparse Frontier" (arXiv 2504.17768, sections 3 and A) and
the reference implementation of each method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from sparsekernels.door import MethodTable
from sparsekernels.door import ParameterError as ParameterError
from sparsekernels.door import Phase as Phase

LARGEST_NUMBER = 2**31 - 1
"""Largest whole number that an option of our own methods takes: kernels and their tables hold budgets as int32."""


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise ParameterError(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerticalSlash:
    """Vertical columns and slash diagonals found from the last `window` query rows (MInference, arXiv 2407.02490)."""

    name: ClassVar[str] = "vertical_slash"
    phase: ClassVar[Phase] = Phase.PREFILL
    budget_field: ClassVar[str] = "vertical_size"

    vertical_size: int
    """Key columns kept per query head, tokens; forced sinks count."""
    slash_size: int
    """Diagonals kept per query head, tokens; forced local offsets count."""
    window: int = 256
    """Last query rows from which column and diagonal sums are estimated."""
    sink_size: int = 4
    """First key columns that are always kept."""
    local_size: int = 64
    """First diagonals (offsets 0 … local_size − 1) that are always kept."""

    def __post_init__(self) -> None:
        _require(self.sink_size >= 0, f"sink_size is {self.sink_size}; it must be at least 0")
        _require(self.local_size >= 1, f"local_size is {self.local_size}; it must be at least 1")
        _require(self.window >= 1, f"window is {self.window}; it must be at least 1")
        _require(
            self.vertical_size >= max(1, self.sink_size),
            f"vertical_size is {self.vertical_size}; it must be at least sink_size ({self.sink_size})",
        )
        _require(
            self.slash_size >= self.local_size,
            f"slash_size is {self.slash_size}; it must be at least local_size ({self.local_size})",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexPrefill:
    """Vertical-slash whose sizes come from a coverage threshold (FlexPrefill, arXiv 2502.20766, with τ = 0)."""

    name: ClassVar[str] = "flexprefill"
    phase: ClassVar[Phase] = Phase.PREFILL
    budget_field: ClassVar[str] = "alpha"

    alpha: float
    """Share of the estimated attention mass that columns, and diagonals, must each cover; 0 means min_budget."""
    min_budget: int = 512
    """Fewest columns and diagonals per query head, tokens."""
    window: int = 512
    sink_size: int = 4
    local_size: int = 64

    def __post_init__(self) -> None:
        _require(0.0 <= self.alpha <= 1.0, f"alpha is {self.alpha}; it must be between 0 and 1")
        _require(self.window >= 1, f"window is {self.window}; it must be at least 1")
        _require(self.sink_size >= 0, f"sink_size is {self.sink_size}; it must be at least 0")
        _require(self.local_size >= 1, f"local_size is {self.local_size}; it must be at least 1")
        _require(
            self.min_budget >= max(self.sink_size, self.local_size),
            f"min_budget is {self.min_budget}; it must cover sink_size ({self.sink_size}) "
            f"and local_size ({self.local_size})",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSparse:
    """Top key blocks per query block by the product of mean-pooled queries and keys (Sparse Frontier section 3)."""

    name: ClassVar[str] = "block_sparse"
    phase: ClassVar[Phase] = Phase.PREFILL
    budget_field: ClassVar[str] = "top_blocks"

    top_blocks: int
    """Key blocks kept per query block; forced blocks count."""
    block_size: int = 16
    """Tokens in a key block."""
    row_block: int | None = None
    """Query rows that share a list; None means block_size (the paper). 128 is the fast setting on Hopper."""
    sink_blocks: int = 1
    """First key blocks that are always kept."""
    local_blocks: int = 1
    """Key blocks just below the diagonal that are always kept, besides the diagonal itself."""

    def __post_init__(self) -> None:
        _require(
            self.block_size >= 16 and self.block_size & (self.block_size - 1) == 0,
            f"block_size is {self.block_size}; it must be a power of two, at least 16",
        )
        _require(
            self.rows >= 16 and self.rows & (self.rows - 1) == 0,
            f"row_block is {self.row_block}; it must be a power of two, at least 16",
        )
        _require(self.sink_blocks >= 0, f"sink_blocks is {self.sink_blocks}; it must be at least 0")
        _require(self.local_blocks >= 0, f"local_blocks is {self.local_blocks}; it must be at least 0")
        least = self.sink_blocks + self.local_blocks + max(1, self.rows // self.block_size)
        _require(self.top_blocks >= least, f"top_blocks is {self.top_blocks}; the forced blocks alone are {least}")

    @property
    def rows(self) -> int:
        """Query rows that share one list of key blocks."""
        return self.block_size if self.row_block is None else self.row_block


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapKV:
    """Keeps the prompt's cache entries that its last `window` queries attend to most (SnapKV, arXiv 2404.14469)."""

    name: ClassVar[str] = "snapkv"
    phase: ClassVar[Phase] = Phase.COMPRESS
    budget_field: ClassVar[str] = "token_capacity"

    token_capacity: int
    """Prompt tokens kept per KV head; forced ones count."""
    window: int = 256
    """Last query rows that vote."""
    kernel_size: int = 21
    """Width of the average pooling over votes, odd, tokens."""
    sink_size: int = 4
    local_size: int = 128
    """Last prompt tokens that are always kept."""

    def __post_init__(self) -> None:
        _require(
            self.kernel_size >= 1 and self.kernel_size % 2 == 1,
            f"kernel_size is {self.kernel_size}; it must be odd and positive",
        )
        _require(self.window >= 1, f"window is {self.window}; it must be at least 1")
        _require(self.sink_size >= 0, f"sink_size is {self.sink_size}; it must be at least 0")
        _require(self.local_size >= 1, f"local_size is {self.local_size}; it must be at least 1")
        _require(
            self.token_capacity > self.sink_size + self.local_size,
            f"token_capacity is {self.token_capacity}; it must exceed sink_size + local_size "
            f"({self.sink_size + self.local_size})",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaSnapKV:
    """SnapKV whose budget is shared by the KV heads of a layer (Ada-KV, arXiv 2407.11550; max votes as in the paper)"""

    name: ClassVar[str] = "ada_snapkv"
    phase: ClassVar[Phase] = Phase.COMPRESS
    budget_field: ClassVar[str] = "token_capacity"

    token_capacity: int
    """Prompt tokens kept per KV head on average over a layer's heads."""
    min_ratio: float = 0.2
    """Share of token_capacity that every head keeps of its own best entries."""
    window: int = 256
    kernel_size: int = 21
    sink_size: int = 4
    local_size: int = 128
    pool_heads: str = "layer"
    """`layer`: budget shared by all heads of the layer, whatever the tensor-parallel size; `rank`: by the
    heads of one rank, as in the reference implementation."""

    def __post_init__(self) -> None:
        SnapKV(
            token_capacity=self.token_capacity,
            window=self.window,
            kernel_size=self.kernel_size,
            sink_size=self.sink_size,
            local_size=self.local_size,
        )
        _require(0.0 <= self.min_ratio <= 1.0, f"min_ratio is {self.min_ratio}; it must be between 0 and 1")
        _require(
            self.pool_heads in ("layer", "rank"), f"pool_heads is {self.pool_heads!r}; it must be 'layer' or 'rank'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quest:
    """Reads the pages with the highest upper bound of q·k at each step (Quest, arXiv 2406.10774)."""

    name: ClassVar[str] = "quest"
    phase: ClassVar[Phase] = Phase.DECODE
    budget_field: ClassVar[str] = "token_budget"

    token_budget: int
    """Tokens read per KV head and step besides the current page, a multiple of page_size."""
    page_size: int = 16
    share_pages: bool = True
    """True: scores are summed over the query heads of a KV head, which then read the same pages."""

    def __post_init__(self) -> None:
        _require(
            self.page_size >= 1 and self.page_size & (self.page_size - 1) == 0,
            f"page_size is {self.page_size}; it must be a power of two",
        )
        _require(
            self.token_budget >= self.page_size and self.token_budget % self.page_size == 0,
            f"token_budget is {self.token_budget}; it must be a positive multiple of page_size ({self.page_size})",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseK:
    """Keeps the keys that a trained scorer ranks highest, in prefill and decode alike (SparseK, arXiv 2406.16747)."""

    # A key that a prompt row has dropped must not come back while decoding: so it stands as the prefill method, and
    # decode follows from it. Gates are straight-through, so they play no part here.

    name: ClassVar[str] = "sparsek"
    phase: ClassVar[Phase] = Phase.PREFILL
    acts_in_decode: ClassVar[bool] = True
    budget_field: ClassVar[str] = "slots"

    adapter: str
    """Adapter file with the model's scorers (`frontier adapt sparsek`), as every worker sees it."""
    slots: int
    """Cache entries that a row reads per KV head: sinks, recent tokens and kept ones."""
    local_size: int | None = None
    """Slots for the most recent tokens, the row's own included; None means half of the slots."""
    sink_size: int = 4
    """First tokens that always stay."""

    def __post_init__(self) -> None:
        _require(bool(self.adapter), "adapter is empty; it must name an adapter file")
        _require(self.sink_size >= 0, f"sink_size is {self.sink_size}; it must be at least 0")
        _require(
            self.local_size is None or self.local_size >= 1, f"local_size is {self.local_size}; it must be at least 1"
        )
        _require(
            self.kept >= 1 and self.recent >= 1,
            f"slots is {self.slots}; it must exceed sink_size + local_size ({self.sink_size + self.recent})",
        )

    @property
    def recent(self) -> int:
        """Slots for the most recent tokens."""
        return self.slots // 2 if self.local_size is None else self.local_size

    @property
    def kept(self) -> int:
        """Slots for which older tokens compete."""
        return self.slots - self.sink_size - self.recent


MethodParameters = VerticalSlash | FlexPrefill | BlockSparse | SnapKV | AdaSnapKV | Quest | SparseK

METHODS = MethodTable(VerticalSlash, FlexPrefill, BlockSparse, SnapKV, AdaSnapKV, Quest, SparseK)
"""Every sparse method by name, those of installed packages included; `dense` is the empty choice."""


def parse_method(name: str, options: Mapping[str, Any]) -> Any:
    """Parameters of the method `name`. Raises ParameterError naming the unknown, missing or bad option."""
    cls = METHODS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ParameterError(f"unknown method {name!r}; known methods: dense, {', '.join(sorted(METHODS))}")
    known = {f.name: f for f in fields(cls)}
    for option, value in options.items():
        if option not in known:
            raise ParameterError(f"{name} has no option {option!r}; its options: {', '.join(known)}")
        _check_type(name, option, _annotation(known[option].type), value)
    try:
        return cls(**options)
    except TypeError as error:
        missing = [f for f in known if f not in options and f in str(error)]
        raise ParameterError(f"{name} needs {', '.join(missing) or error}") from None
    except ParameterError as error:
        raise ParameterError(f"{name}: {error}") from None


def _annotation(declared: Any) -> str:
    """The text of a field's type; a class that was defined without postponed annotations holds the type itself."""
    return declared.__name__ if isinstance(declared, type) else str(declared)


def _check_type(name: str, option: str, annotation: str, value: Any) -> None:
    wanted: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "str": (str,),
        "int | None": (int, type(None)),
    }
    types = wanted.get(annotation, (object,))
    wrong_bool = isinstance(value, bool) and bool not in types and object not in types
    if wrong_bool or not isinstance(value, types):
        raise ParameterError(f"{name}: {option} is {value!r}; it must be {annotation}")
    too_large = annotation.startswith("int") and isinstance(value, int) and value > LARGEST_NUMBER
    if too_large and METHODS.plugin(name) is None:
        raise ParameterError(f"{name}: {option} is {value}; it must be at most {LARGEST_NUMBER}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodChoice:
    """At most one method a phase. All absent is dense. SparseK in prefill rules decode too, and stands alone."""

    prefill: Any | None = None
    decode: Any | None = None
    compress: Any | None = None

    def __post_init__(self) -> None:
        for phase in Phase:
            method = getattr(self, phase)
            if method is not None and method.phase is not phase:
                raise ParameterError(f"{method.name} is a {method.phase} method; it cannot act in {phase}")
        if self.compress is not None and self._watching is not None:
            text = f"{self._watching.name} watches the whole prompt; {self.compress.name} cannot act beside it"
            raise ParameterError(text)
        other = self.decode or self.compress
        if self.rules_decode and other is not None:
            raise ParameterError(f"{self.prefill.name} decodes by itself; {other.name} cannot act beside it")  # type: ignore[union-attr]

    @property
    def rules_decode(self) -> bool:
        """Whether the prefill method also decides what decode rows read (SparseK)."""
        return bool(getattr(self.prefill, "acts_in_decode", False))

    @property
    def observer(self) -> Any | None:
        """The method that looks at the prompt's last rows: one that compresses, or a decode method with a window."""
        return self.compress or self._watching

    @property
    def _watching(self) -> Any | None:
        return self.decode if getattr(self.decode, "window", None) else None

    @property
    def is_decode_dense(self) -> bool:
        """Whether decode rows read the whole cache."""
        return self.decode is None and self.compress is None and not self.rules_decode

    @property
    def is_dense(self) -> bool:
        return self.prefill is None and self.decode is None and self.compress is None

    def to_wire(self) -> dict[str, dict[str, Any]]:
        """The JSON form, phases in the order of `Phase`, every parameter written out, a plug-in with its version."""
        chosen = ((phase, getattr(self, phase)) for phase in Phase)
        return {str(p): {"name": m.name, **asdict(m), **_plugin(m.name)} for p, m in chosen if m is not None}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Mapping[str, Any]]) -> MethodChoice:
        """The inverse of `to_wire`. Raises ParameterError for an unknown phase, method or option or another form."""
        chosen: dict[str, Any] = {}
        if not isinstance(wire, Mapping):
            raise ParameterError(f"the method is {wire!r}; it must be an object of phases: {', '.join(Phase)}")
        for phase, options in wire.items():
            if phase not in set(Phase):
                raise ParameterError(f"unknown phase {phase!r}; phases: {', '.join(Phase)}")
            if not isinstance(options, Mapping):
                raise ParameterError(f"{phase} is {options!r}; it must be an object with the method's name")
            if "name" not in options:
                raise ParameterError(f"{phase}: the method has no name")
            name = options["name"]
            chosen[phase] = parse_method(name, {k: v for k, v in options.items() if k not in ("name", "plugin")})
            here, there = _plugin(name).get("plugin"), options.get("plugin", _plugin(name).get("plugin"))
            if here != there:
                raise ParameterError(f"{name} is of {here or 'frontier itself'} here, but was asked for of {there}")
        return cls(**chosen)


def _plugin(name: str) -> dict[str, str]:
    plugin = METHODS.plugin(name)
    return {} if plugin is None else {"plugin": plugin}
