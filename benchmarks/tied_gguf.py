"""Write a GGUF file again without its output matrix, so that the model's output shares the embedding.

    python benchmarks/tied_gguf.py MODEL.gguf TIED.gguf

Some converters store `output.weight` also for models whose published weights tie it to the embedding (Qwen2.5 up to
3B). transformers then loads two matrices; without it, one, as published. `python -m orchestrator.models.convert
TIED.gguf FOLDER` makes a model folder of the result. Metadata and all other tensors stay byte for byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter

OUTPUT = "output.weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    reader = GGUFReader(options.source)
    if all(tensor.name != OUTPUT for tensor in reader.tensors):
        raise SystemExit(f"{options.source} has no {OUTPUT}; it is tied already")
    before, after = options.source.stat().st_size, _write(reader, options.target)
    print(f"{options.target}: {after / 2**20:.1f} MiB of {before / 2**20:.1f}")


def _write(reader: GGUFReader, target: Path) -> int:
    """Size of the written file in bytes."""
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = entry.types[0]
        element = entry.types[-1] if kind is GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), kind, sub_type=element)
    kept = [tensor for tensor in reader.tensors if tensor.name != OUTPUT]
    for tensor in kept:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in kept:
        writer.write_tensor_data(tensor.data)
    writer.close()
    return target.stat().st_size


if __name__ == "__main__":
    main()
